"""Does an image's answer depend on the images beside it?"""

from __future__ import annotations

import torch

from unmask.contract import logits_of
from unmask.diagnostics.determinism import relative_difference
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Sample

ROUNDING, NOISE = 1e-2, 3.0


@torch.no_grad()
def batch_dependence(sample: Sample) -> Finding:
    """Compare the logits of images in one batch with those of each alone, relative to the size of the logits.

    Batch-norm statistics of the batch, or a defence that averages over it, make figures depend on how images are
    batched; an attacker chooses the batch. What the same batch changes from pass to pass does not count: that is
    randomness. Three forwards per image.
    """
    together, again = logits_of(sample.model, sample.x), logits_of(sample.model, sample.x)
    alone = torch.cat([logits_of(sample.model, image) for image in sample.x.split(1)])
    difference = relative_difference(together, alone)
    dependent = difference > max(ROUNDING, NOISE * relative_difference(together, again))
    return Finding(
        "batch_dependence",
        "fail" if dependent else "ok",
        f"An image's logits change by {difference:.1%} of the largest with the images beside it."
        if dependent
        else "An image's answer does not depend on the images beside it.",
        {"largest_difference": difference, "n": len(sample)},
        "Use running batch-norm statistics (model.eval()), and no function of the whole batch." if dependent else "",
        forwards=3 * len(sample),
    )
