"""Adversarial losses: how wrong the model is on each image. Higher is more adversarial.

Every loss maps logits (B, K) and labels y (B,) to (B,). With `target` (B,) it grows as the target class wins. The
gradient of a loss is what attacks follow; whether an image is broken is decided by `predictions` alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def predictions(logits: Tensor) -> Tensor:
    """Return the predicted class of every image: (B, K) -> int64 (B,)."""
    return logits.argmax(1)


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return -log p_y, or with a target log p_target (Kurakin et al. 2017)."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, y: Tensor, target: Tensor | None = None, *, confidence: float | None = None) -> Tensor:
    """Return max_{j != y} z_j - z_y, or z_target - z_y (Carlini & Wagner 2017, untruncated).

    `confidence` gives the truncated form of Madry's public code, -relu(z_y - max_{j != y} z_j + confidence), whose
    gradient dies once the margin exceeds `confidence` (50 there).
    """
    gap = (_runner_up(logits, y) if target is None else _take(logits, target)) - _take(logits, y)
    return gap if confidence is None else -F.relu(confidence - gap)


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the difference of logits ratio, invariant to shift and scale (Croce & Hein 2020, Eq. 6 and 7).

    Untargeted: -(z_y - max_{j != y} z_j) / (z_1st - z_3rd). Targeted: -(z_y - z_target) / (z_1st - (z_3rd + z_4th)/2).
    With too few classes for the paper's denominator (untargeted K = 2; targeted K < 4) the ratio would be constant, so
    the gap is divided by the detached range z_1st - z_last instead.
    """
    ranked = logits.sort(dim=1, descending=True).values
    classes = logits.shape[1]
    if target is None:
        scale = ranked[:, 0] - ranked[:, 2] if classes >= 3 else (ranked[:, 0] - ranked[:, -1]).detach()
    elif classes >= 4:
        scale = ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2
    else:
        scale = (ranked[:, 0] - ranked[:, -1]).detach()
    return margin(logits, y, target) / scale.clamp(min=1e-12)


def probability_margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return max_{j != y} p_j - p_y, or p_target - p_y, in [-1, 1] (Xie et al. 2024, PMA)."""
    return margin(logits.softmax(1), y, target)


def scale_invariant(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of logits divided by their detached gap z_1st - z_2nd (Liu et al. 2022, MIFPE).

    Logits of any scale give the same loss and a gradient that neither vanishes nor underflows.
    """
    top = logits.topk(2, dim=1).values
    gap = (top[:, :1] - top[:, 1:2]).detach().clamp(min=1e-12)
    return cross_entropy(logits / gap, y, target)


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax(reference) || softmax(logits)) of every row: (B, K), (B, K) -> (B,)."""
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "probability_margin": probability_margin,
    "scale_invariant": scale_invariant,
}


def _take(logits: Tensor, index: Tensor) -> Tensor:
    return logits.gather(1, index.unsqueeze(1)).squeeze(1)


def _runner_up(logits: Tensor, y: Tensor) -> Tensor:
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1)
