"""Small models whose answers can be worked out by hand, and one with all that an attack must leave alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

Build = Callable[..., nn.Module]


class Linear(nn.Module):
    """Logits `weights` (K, D) times the flattened image plus `bias` (K,)."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T + self.bias


class Network(nn.Module):
    """A convolution with batch norm and dropout for images (2, 4, 4), with parameters from a seed."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            self.body = nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.Tanh(),
                nn.Flatten(),
                nn.Dropout(0.5),
                nn.Linear(64, classes),
            )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
            norm = self.body[1]
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
            norm.running_mean.copy_(torch.randn(4, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


@pytest.fixture
def linear() -> Build:
    return Linear


@pytest.fixture
def network() -> Build:
    return Network
