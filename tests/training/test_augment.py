"""Augmentations against their definitions: moments of the noise, crops and flips by plain slicing."""

from itertools import product

import pytest
import torch
from torch import Tensor

from unmask.errors import RecipeError
from unmask.training import CropAndFlip, GaussianNoise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestGaussianNoise:
    @pytest.mark.parametrize("sigma", [0.06, 0.5])
    def test_it_adds_noise_of_mean_0_and_standard_deviation_sigma(self, sigma: float) -> None:
        x = torch.rand(50, 1, 40, 40, generator=generator(1))
        noise = GaussianNoise(sigma)(x, generator()) - x
        spread = sigma / noise.numel() ** 0.5
        assert noise.mean().item() == pytest.approx(0, abs=5 * spread)
        assert noise.std().item() == pytest.approx(sigma, abs=5 * spread)
        within = (noise.abs() < sigma).float().mean().item()
        assert within == pytest.approx(0.6827, abs=0.01)

    def test_every_pixel_of_every_image_has_its_own_noise(self) -> None:
        noise = GaussianNoise(1.0)(torch.zeros(3, 2, 5, 5), generator())
        assert len(noise.unique()) == noise.numel()

    def test_it_leaves_the_box_unless_it_is_told_to_clip(self) -> None:
        x = torch.rand(10, 1, 8, 8, generator=generator(1))
        free, clipped = (GaussianNoise(0.5, clip=clip)(x, generator()) for clip in (False, True))
        assert free.min() < 0
        assert free.max() > 1
        assert torch.equal(clipped, free.clamp(0, 1))

    def test_sigma_0_changes_nothing(self) -> None:
        x = torch.rand(2, 1, 3, 3, generator=generator(1))
        assert torch.equal(GaussianNoise(0.0)(x, generator()), x)

    def test_a_negative_sigma_is_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"sigma is -0\.1; expected 0 or more"):
            GaussianNoise(-0.1)


def all_crops(image: Tensor, padding: int) -> list[Tensor]:
    """Return every image that padding, cropping and mirroring can make, by plain loops: (top, left, mirrored)."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    places = range(2 * padding + 1)
    crops = []
    for top, left, mirrored in product(places, places, (False, True)):
        crop = padded[:, top : top + height, left : left + width]
        crops.append(crop.flip(2) if mirrored else crop)
    return crops


class TestCropAndFlip:
    @pytest.mark.parametrize("padding", [0, 1, 2])
    def test_every_result_is_a_crop_of_its_own_image_and_all_crops_are_equally_likely(self, padding: int) -> None:
        image = torch.rand(3, 5, 7, generator=generator(1))
        crops = torch.stack(all_crops(image, padding))
        count = 40 * len(crops)
        found = CropAndFlip(padding)(image.expand(count, 3, 5, 7), generator())
        matches = (found[:, None] == crops[None]).flatten(2).all(2)
        assert (matches.sum(1) == 1).all()
        frequencies = matches.sum(0)
        # Each count is binomial with mean 40 and a standard deviation of at most 6.3.
        assert frequencies.min() > 40 - 5 * 6.4
        assert frequencies.max() < 40 + 5 * 6.4

    def test_images_are_not_mixed_up(self) -> None:
        x = torch.rand(30, 3, 4, 4, generator=generator(1))
        for image, found in zip(x, CropAndFlip(2)(x, generator()), strict=True):
            assert any(torch.equal(found, crop) for crop in all_crops(image, 2))


@pytest.mark.parametrize("augmentation", [GaussianNoise(0.5), CropAndFlip(2)], ids=["noise", "crop and flip"])
def test_it_draws_from_the_given_generator_alone(augmentation) -> None:
    x = torch.rand(8, 1, 6, 6, generator=generator(1))
    untouched, before = x.clone(), torch.get_rng_state()
    first, again, other = (augmentation(x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, untouched)
    assert torch.equal(before, torch.get_rng_state())
