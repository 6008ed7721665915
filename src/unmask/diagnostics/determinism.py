"""Does the model answer the same image the same way?"""

from __future__ import annotations

import torch

from unmask.contract import logits_of
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Sample

ROUNDING = 1e-4


@torch.no_grad()
def determinism(sample: Sample) -> Finding:
    """Compare two forward passes at the same random points of the images' balls, relative to the size of the logits.

    Randomised models defeat single evaluations without being robust (Athalye et al. 2018, stochastic gradients). Two
    forwards per image.
    """
    here = sample.threat.uniform(sample.x, sample.streams.child("determinism"))
    first, second = logits_of(sample.model, here), logits_of(sample.model, here)
    difference = relative_difference(first, second)
    random = difference > ROUNDING
    return Finding(
        "determinism",
        "fail" if random else "ok",
        f"Two passes on the same images differ by {difference:.1%} of the largest logit: the model is randomised."
        if random
        else "The model answers the same images the same way.",
        {"largest_difference": difference, "n": len(sample)},
        "Remove the randomness (dropout left on, noise, random resizing), or attack the average over it "
        "(unmask.models.expectation); single predictions cannot be trusted."
        if random
        else "",
        forwards=2 * len(sample),
    )


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference of two batches of logits (B, K), as a share of the largest logit."""
    scale = first.abs().amax().clamp(min=torch.finfo(first.dtype).tiny)
    return ((first - second).abs().amax() / scale).item()
