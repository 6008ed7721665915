"""Adversarial losses: how wrong the model is on each image. Higher is more adversarial.

Every loss maps logits (B, K) and labels y (B,) to (B,). With `target` (B,) it grows as the target class wins. The
gradient of a loss is what attacks follow; whether an image is broken is decided by `answers` alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import AuditError

Loss = Callable[..., Tensor]


def predictions(logits: Tensor) -> Tensor:
    """Return the predicted class of every image: (B, K) -> int64 (B,)."""
    return logits.argmax(1)


def answers(logits: Tensor, y: Tensor, top: int = 1) -> Tensor:
    """Return what counts as the model's answer: the label where it is among the `top` likeliest classes, else the
    likeliest: (B, K), (B,) -> int64 (B,).

    With `top` 1 these are the `predictions`. Of classes tied, the first goes before. Raises AuditError unless
    1 <= top < K.
    """
    likeliest = predictions(logits)
    if top == 1:
        return likeliest
    check_top(top, logits.shape[1])
    own = y.unsqueeze(1)
    score, place = logits.gather(1, own), torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > score) | ((logits == score) & (place < own))
    return torch.where(ahead.sum(1) < top, y, likeliest)


def check_top(top: int, classes: int) -> None:
    """Raise AuditError unless a label can, but need not, be among the `top` likeliest of K classes: 1 <= top < K."""
    if not 1 <= top < classes:
        raise AuditError(
            f"top is {top}; expected 1 (the likeliest class alone) to {classes - 1}: the model has {classes} classes."
        )


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return -log p_y, or with a target log p_target (Kurakin et al. 2017)."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(
    logits: Tensor, y: Tensor, target: Tensor | None = None, *, confidence: float | None = None, top: int = 1
) -> Tensor:
    """Return max_{j != y} z_j - z_y, or z_target - z_y (Carlini & Wagner 2017, untruncated).

    With `top` the `top`-th largest of z_j, j != y, takes the place of the largest: positive means that the label is not
    among the `top` likeliest. Towards a target it changes nothing. Raises AuditError unless 1 <= top < K.

    `confidence` gives the truncated form of Madry's public code, -relu(z_y - max_{j != y} z_j + confidence), whose
    gradient dies once the margin exceeds `confidence` (50 there).
    """
    gap = (_runner_up(logits, y, top) if target is None else _take(logits, target)) - _take(logits, y)
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


def _runner_up(logits: Tensor, y: Tensor, rank: int) -> Tensor:
    own = F.one_hot(y, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf)
    if rank == 1:
        return others.amax(1)
    check_top(rank, logits.shape[1])
    return others.topk(rank, dim=1).values[:, -1]
