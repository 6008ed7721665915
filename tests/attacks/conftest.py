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
    """Two dense layers for images (2, 4, 4), with parameters from a seed; on request with batch norm and dropout."""

    def __init__(self, classes: int, *, moody: bool = False) -> None:
        super().__init__()
        # Few and small operations: two threads on busy cores take longer to meet than to compute.
        with torch.random.fork_rng():
            moods = [nn.BatchNorm1d(16), nn.Dropout(0.5)] if moody else []
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), *moods, nn.Tanh(), nn.Linear(16, classes))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


@pytest.fixture
def linear() -> Build:
    return Linear


@pytest.fixture
def network() -> Build:
    return Network
