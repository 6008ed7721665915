"""Which class a targeted attack aims at. The true class is never a target."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.contract import Model, check_labels, logits_of
from unmask.streams import Streams


@torch.no_grad()
def least_likely_target(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the wrong class with the lowest logit per image (Kurakin et al. 2017): int64 (B,). One forward."""
    return _wrong_logits(model, x, y, torch.inf).argmin(1)


@torch.no_grad()
def likeliest_target(model: Model, x: Tensor, y: Tensor, rank: int = 1) -> Tensor:
    """Return the wrong class with the `rank`-th highest logit per image, 1 = runner-up: int64 (B,). One forward.

    Where there are fewer wrong classes than `rank`, the ranks start over.
    """
    ranked = ranked_targets(_wrong_logits(model, x, y, -torch.inf), y)
    return ranked[:, (rank - 1) % ranked.shape[1]]


def ranked_targets(logits: Tensor, y: Tensor) -> Tensor:
    """Return the wrong classes from the likeliest to the least likely: logits (B, K) -> int64 (B, K - 1)."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True)[:, :-1]


def random_target(y: Tensor, classes: int, generator: torch.Generator | Streams) -> Tensor:
    """Return a uniform random wrong class per image: int64 (B,). Costs no pass."""
    streams = Streams.of(generator, y.view(-1, 1))
    drawn = streams.integers(classes - 1).to(y.device)
    return drawn + (drawn >= y).long()


def _wrong_logits(model: Model, x: Tensor, y: Tensor, own: float) -> Tensor:
    logits = logits_of(model, x)
    check_labels(y, len(x), logits.shape[1])
    return logits.scatter(1, y.unsqueeze(1), own)
