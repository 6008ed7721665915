"""Normalisation as a layer inside the model, so that attacks always work on images in [0, 1]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unmask.errors import ModelError
from unmask.models.images import check_image_shape


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel, both in units of [0, 1] pixels.

    Put it first: `nn.Sequential(Normalize(mean, std), network)`. Raises ModelError where `mean` and `std` are empty, of
    different length, not finite, or `std` is not positive; and in `forward` for another number of channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _check_statistics(mean, std)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` in [0, 1] to normalised images of the same shape."""
        check_image_shape(x, self.mean.shape[1])
        return (x - self.mean) / self.std


class PerImageStandardize(nn.Module):
    """Give every image mean 0 and standard deviation 1 over all its values (tf.image.per_image_standardization).

    The standard deviation is bounded from below by 1 / sqrt(number of values), in units where pixels range over
    [0, `pixel_range`]; published models standardise pixels in [0, 255]. A constant image becomes zero, with a finite
    gradient. Raises ModelError for a `pixel_range` that is not positive.
    """

    def __init__(self, pixel_range: float = 255.0) -> None:
        super().__init__()
        if not (math.isfinite(pixel_range) and pixel_range > 0):
            raise ModelError(f"pixel_range is {pixel_range}; give the largest pixel value, 255 or 1.")
        self.pixel_range = pixel_range

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, C, H, W)` in [0, 1] to standardised images of the same shape."""
        values = math.prod(x.shape[1:])
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        variance = (x - mean).square().mean(dim=(1, 2, 3), keepdim=True)
        # The bound is applied before the root: the root of zero has an infinite gradient.
        floor = 1 / (values * self.pixel_range**2)
        return (x - mean) / variance.clamp_min(floor).sqrt()


def centered(x: Tensor) -> Tensor:
    """Map images `(B, C, H, W)` in [0, 1] to [-1, 1], the range that the networks of TF-slim take."""
    return 2 * x - 1


def _check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if len(mean) == 0 or len(mean) != len(std):
        raise ModelError(f"Normalize got {len(mean)} means and {len(std)} standard deviations; give one per channel.")
    if not all(math.isfinite(value) for value in [*mean, *std]) or min(std) <= 0:
        raise ModelError(
            f"Normalize got mean {list(mean)} and std {list(std)}; "
            "give finite numbers and positive standard deviations, in units of [0, 1] pixels."
        )
