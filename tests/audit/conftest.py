"""Small models whose robustness is known or quickly made, shared by the tests of audits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.models import build
from unmask.training import Training, fit, plain

CLASSES, SHAPE = 4, (1, 5, 5)


@pytest.fixture(scope="session")
def linear() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """Return a linear model, images well inside the box, labels, and the exact Linf distance of each to an error."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(CLASSES, 25, generator=generator)
    x = 0.3 + 0.4 * torch.rand(120, *SHAPE, generator=generator)
    logits = x.flatten(1) @ weights.T
    y = logits.argmax(1)
    y[:7] = (y[:7] + 1) % CLASSES
    difference = weights[None] - weights[y][:, None]
    gaps = (logits.gather(1, y[:, None]) - logits) / difference.abs().sum(2).clamp(min=1e-9)
    gaps.scatter_(1, y[:, None], torch.inf)
    return (lambda images: images.flatten(1) @ weights.to(images).T), x, y, gaps.amin(1)


@pytest.fixture(scope="session")
def digits() -> unmask.DataSet:
    return unmask.load_data("digits", "test").first(64)


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """Return a digits network after three epochs of plain training."""
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0))
    data = unmask.load_data("digits", "train")
    return fit(model, data, Training(plain(), epochs=3, batch_size=64), seed=0).requires_grad_(False)
