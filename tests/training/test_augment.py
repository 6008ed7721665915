"""Augmentations against their definitions: moments of the noise, crops and flips by plain slicing."""

from itertools import product

import pytest
import torch
from torch import Tensor

from unmask.errors import RecipeError
from unmask.training import CropAndFlip, GaussianNoise, ResizedCrop, Saturation


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


class TestResizedCrop:
    def test_the_whole_area_is_the_image_itself(self) -> None:
        crop = ResizedCrop(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False)
        x = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(crop(x, torch.Generator()), x)

    def test_half_of_the_images_are_mirrored(self) -> None:
        x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        found = ResizedCrop(area=(1.0, 1.0), aspect=(1.0, 1.0))(x, torch.Generator().manual_seed(1))
        mirrored = sum(bool(torch.allclose(one, image.flip(2), atol=1e-5)) for one, image in zip(found, x, strict=True))
        kept = sum(bool(torch.allclose(one, image, atol=1e-5)) for one, image in zip(found, x, strict=True))
        assert mirrored + kept == 40 and 10 < mirrored < 30

    def test_a_window_shows_part_of_a_ramp_at_its_own_scale(self) -> None:
        """On a ramp from left to right, slope says how wide the window is, and area and aspect follow."""
        ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32)
        x, y = ramp.expand(200, 1, 32, 32), ramp.transpose(2, 3).expand(200, 1, 32, 32)
        crop = ResizedCrop(flip=False)
        wide, tall = (crop(image, torch.Generator().manual_seed(2)) for image in (x, y))
        width = (wide[:, 0, 16, 20] - wide[:, 0, 16, 12]) * 31 / 8
        height = (tall[:, 0, 20, 16] - tall[:, 0, 12, 16]) * 31 / 8
        assert 0.4 < (width * height).min() < 0.55 and (width * height).max() < 1.01
        assert (width / height).min() > 0.74 and (width / height).max() < 1.34
        assert len(wide[:, 0, 16, 16].unique()) > 150

    @pytest.mark.parametrize("settings", [{"area": (0.0, 1.0)}, {"area": (0.9, 0.5)}, {"aspect": (0.0, 1.0)}])
    def test_bounds_without_sense_are_refused(self, settings) -> None:
        with pytest.raises(RecipeError, match="lower and an upper bound"):
            ResizedCrop(**settings)


class TestSaturation:
    X = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def test_zero_is_grey_and_one_the_image_itself(self) -> None:
        grey = Saturation(0.0, 0.0)(self.X, torch.Generator())
        torch.testing.assert_close(grey[:, 0], grey[:, 2])
        torch.testing.assert_close(Saturation(1.0, 1.0)(self.X, torch.Generator()), self.X)

    def test_it_stays_in_the_box_and_differs_by_image(self) -> None:
        found = Saturation()(self.X, torch.Generator().manual_seed(0))
        assert found.min() >= 0 and found.max() <= 1
        assert len((found - self.X).flatten(1).norm(dim=1).unique()) == 50

    def test_images_without_colours_and_bounds_without_sense_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="needs colour images"):
            Saturation()(torch.rand(2, 1, 4, 4), torch.Generator())
        with pytest.raises(RecipeError, match="low before high"):
            Saturation(2.0, 1.0)
