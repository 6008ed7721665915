"""The seeds' optimizers and learning-rate schedules, as plain values that a record can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from unmask.errors import RecipeError, unknown

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer's name, learning rate and further settings (torch's words); weight decay acts on kernels only."""

    name: str
    lr: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise RecipeError(unknown("optimizer", self.name, OPTIMIZERS))
        if not self.lr > 0:
            raise RecipeError(f"The learning rate is {self.lr}; expected a positive number.")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the torch optimizer over the model's trainable parameters."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return OPTIMIZERS[self.name](groups, lr=self.lr, **self.settings)


@dataclass(frozen=True)
class ConstantRate:
    """Keep the learning rate."""

    def factor(self, epoch: float, epochs: int) -> float:
        """Return what the learning rate is multiplied by after `epoch` (fractional) of `epochs`."""
        return 1.0


@dataclass(frozen=True)
class CosineRate:
    """Let the learning rate fall to zero along a half cosine."""

    def factor(self, epoch: float, epochs: int) -> float:
        """Return what the learning rate is multiplied by after `epoch` (fractional) of `epochs`."""
        return (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


@dataclass(frozen=True)
class StepRate:
    """Multiply the learning rate by `rate` at each boundary, given as a share of the whole training."""

    boundaries: tuple[float, ...]
    rate: float = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        """Return what the learning rate is multiplied by after `epoch` (fractional) of `epochs`."""
        return self.rate ** sum(epoch >= boundary * epochs for boundary in self.boundaries)


@dataclass(frozen=True)
class StaircaseRate:
    """Multiply the learning rate by `rate` after every `every` epochs (Kannan et al.: .94 every two)."""

    rate: float = 0.94
    every: float = 2.0

    def factor(self, epoch: float, epochs: int) -> float:
        """Return what the learning rate is multiplied by after `epoch` (fractional) of `epochs`."""
        return self.rate ** int(epoch // self.every)


@dataclass(frozen=True)
class CyclicRate:
    """Let the learning rate rise linearly from zero until `peak`, a share of the training, and fall to zero again.

    As Wong et al. 2020 train by single steps.
    """

    peak: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise RecipeError(f"The cycle's peak is {self.peak}; expected a share of the training between 0 and 1.")

    def factor(self, epoch: float, epochs: int) -> float:
        """Return what the learning rate is multiplied by after `epoch` (fractional) of `epochs`."""
        share = epoch / epochs
        return min(share / self.peak, (1 - share) / (1 - self.peak))


Schedule = ConstantRate | CosineRate | CyclicRate | StepRate | StaircaseRate
