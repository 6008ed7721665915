"""Random changes of training images, each drawn from an explicit generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.errors import RecipeError
from unmask.training.penalties import Blend

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
        padded = F.pad(x, [self.padding] * 4).permute(0, 2, 3, 1)
        example = torch.arange(count, device=x.device)[:, None, None]
        return padded[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ResizedCrop:
    """Cut a random window, `area` of the image with an `aspect` of width to height, and enlarge it to the whole image.

    With `flip` half of the images are mirrored left to right. Mosbach et al. 2018 train so on Tiny ImageNet: area .5 to
    1, aspect .75 to 1.33. The window is read bilinearly.
    """

    area: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (0.75, 1.33)
    flip: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise RecipeError(
                f"The crop's area is {self.area} and its aspect {self.aspect}; expected a lower and an upper bound of "
                "each, the areas in (0, 1]."
            )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented images (B, C, H, W)."""
        draws = torch.rand((5, len(x)), generator=generator)
        area = self.area[0] + draws[0] * (self.area[1] - self.area[0])
        low, high = (math.log(bound) for bound in self.aspect)
        aspect = torch.exp(low + draws[1] * (high - low))
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        left, top = (2 * draws[2] - 1) * (1 - width), (2 * draws[3] - 1) * (1 - height)
        mirrored = torch.where((draws[4] < 0.5) & self.flip, -1.0, 1.0)
        zero = torch.zeros_like(width)
        window = torch.stack([width * mirrored, zero, left, zero, height, top], 1).view(-1, 2, 3).to(x)
        grid = F.affine_grid(window, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Saturation:
    """Mix every colour image with its grey one, by a factor drawn from U[low, high]: 0 is grey, 1 the image itself.

    Mosbach et al. 2018 train on Tiny ImageNet with .5 to 2. Raises RecipeError for images without three channels.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise RecipeError(f"The saturation lies in [{self.low}, {self.high}]; expected 0 or more, low before high.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented images (B, 3, H, W) in [0, 1]."""
        if x.shape[1] != 3:
            raise RecipeError(f"Saturation needs colour images (B, 3, H, W); got shape {tuple(x.shape)}. Leave it out.")
        factor = self.low + torch.rand(len(x), generator=generator).to(x) * (self.high - self.low)
        grey = (x * x.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return torch.lerp(grey, x, factor.view(-1, 1, 1, 1)).clamp(0, 1)


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


Augmentation = GaussianNoise | CropAndFlip | ResizedCrop | Saturation
