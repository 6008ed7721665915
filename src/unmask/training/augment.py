"""Random changes of training images, each drawn from an explicit generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from unmask.errors import RecipeError
from unmask.training.penalties import Blend


@dataclass(frozen=True)
class GaussianNoise:
    """Add N(0, sigma^2) to every pixel; sigma in pixels of [0, 1]. `clip` cuts the result back to [0, 1]."""

    sigma: float
    clip: bool = False

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise RecipeError(f"The noise's sigma is {self.sigma}; expected 0 or more.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return noisy images (B, C, H, W)."""
        noisy = x + self.sigma * torch.randn(x.shape, generator=generator).to(x)
        return noisy.clamp(0, 1) if self.clip else noisy


@dataclass(frozen=True)
class CropAndFlip:
    """Pad by `padding` black pixels, crop back at a random place, and mirror half of the images left to right."""

    padding: int = 2

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented images (B, C, H, W)."""
        count, height, width = len(x), x.shape[2], x.shape[3]
        places = torch.randint(2 * self.padding + 1, (2, count), generator=generator).to(x.device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(x.device)
        rows = places[0][:, None] + torch.arange(height, device=x.device)
        columns = places[1][:, None] + torch.arange(width, device=x.device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        padded = pad(x, [self.padding] * 4).permute(0, 2, 3, 1)
        example = torch.arange(count, device=x.device)[:, None, None]
        return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mixed(x: Tensor, y: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Blend]:
    """Return images (B, C, H, W) mixed in pairs, the labels y (B,) of what each is mostly, and what was mixed in.

    mixup (Zhang et al. 2018): lambda x_i + (1 - lambda) x_j with one lambda ~ Beta(alpha, alpha) per batch; the larger
    share stays with the image itself.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    share = max(share, 1 - share)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return share * x + (1 - share) * x[partner], y, Blend(y[partner], share)


Augmentation = GaussianNoise | CropAndFlip
