"""Does the model answer the same image the same way?"""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.contract import Model, logits_of
from unmask.diagnostics.finding import Finding


@torch.no_grad()
def determinism(model: Model, x: Tensor) -> Finding:
    """Compare two forward passes on the same images x (B, C, H, W), relative to the size of the logits.

    Randomised models defeat single evaluations without being robust (Athalye et al. 2018, stochastic gradients).
    """
    first, second = logits_of(model, x), logits_of(model, x)
    scale = first.abs().amax().clamp(min=torch.finfo(first.dtype).tiny)
    difference = ((first - second).abs().amax() / scale).item()
    random = difference > 1e-4
    return Finding(
        "determinism",
        "fail" if random else "ok",
        f"Two passes on the same images differ by {difference:.1%} of the largest logit: the model is randomised."
        if random
        else "The model answers the same images the same way.",
        {"largest_difference": difference, "n": len(x)},
        "Remove the randomness, or attack the average over it; single predictions cannot be trusted." if random else "",
        forwards=2 * len(x),
    )
