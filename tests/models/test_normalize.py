"""Normalisation layers against their formulas, and their errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unmask.errors import ModelError
from unmask.models import Normalize, PerImageStandardize


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_normalize_works_per_channel() -> None:
    x = torch.tensor([[[[0.5]], [[0.2]], [[1.0]]]])
    out = Normalize([0.5, 0.1, 0.0], [0.25, 0.1, 2.0])(x)
    torch.testing.assert_close(out, torch.tensor([[[[0.0]], [[1.0]], [[0.5]]]]))


def test_normalize_scales_gradients() -> None:
    x = torch.zeros(1, 2, 1, 1, requires_grad=True)
    Normalize([0.5, 0.5], [0.25, 0.5])(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [4.0, 2.0]


def test_normalize_is_part_of_the_saved_state_but_not_trained() -> None:
    layer = nn.Sequential(Normalize([0.5], [0.25]))
    assert set(layer.state_dict()) == {"0.mean", "0.std"}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([], [], "0 means"),
        ([0.5], [0.5, 0.5], "1 means and 2 standard deviations"),
        ([0.5], [0.0], "positive"),
        ([0.5], [-1.0], "positive"),
        ([math.nan], [1.0], "finite"),
        ([0.5], [math.inf], "finite"),
    ],
)
def test_normalize_refuses_statistics_that_make_no_sense(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Normalize(mean, std)


def test_normalize_does_not_turn_grey_images_into_colour_ones() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 1, 4, 4\); this model takes \(B, 3, H, W\)"):
        Normalize([0.5] * 3, [0.5] * 3)(torch.zeros(2, 1, 4, 4))


def test_standardize_gives_mean_0_and_deviation_1_per_image() -> None:
    out = PerImageStandardize()(images(5, 3, 8, 8))
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(out.std((1, 2, 3), correction=0), torch.ones(5, dtype=torch.float64))


@settings(deadline=None)
@given(st.floats(0, 0.01), st.sampled_from([1.0, 255.0]))
def test_standardize_bounds_the_deviation_like_tensorflow(contrast: float, pixel_range: float) -> None:
    x = 0.5 + contrast * (images(1, 1, 4, 4) - 0.5)
    pixels = x * pixel_range
    deviation = max(pixels.std(correction=0).item(), 1 / math.sqrt(16))
    expected = (pixels - pixels.mean()) / deviation
    torch.testing.assert_close(PerImageStandardize(pixel_range)(x), expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_becomes_zero_with_a_finite_gradient(value: float) -> None:
    x = torch.full((1, 3, 4, 4), value, requires_grad=True)
    out = PerImageStandardize()(x)
    out[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert out.abs().max() < 1e-3
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


def test_the_gradient_of_standardize_is_right() -> None:
    x = images(2, 1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(PerImageStandardize(), (x,))


@pytest.mark.parametrize("pixel_range", [0.0, -1.0, math.nan, math.inf])
def test_standardize_refuses_a_pixel_range_that_makes_no_sense(pixel_range: float) -> None:
    with pytest.raises(ModelError, match="largest pixel value"):
        PerImageStandardize(pixel_range)
