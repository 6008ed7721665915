"""Pictures show the very pixels, and perturbations their sign."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unmask.report.pictures import LARGEST, perturbation, picture


def pixels(uri):
    """Decode a data URI to an array."""
    kind, data = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 20)])
def test_every_byte_of_an_image_is_kept(shape):
    bytes_ = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    shown = pixels(picture(bytes_.astype(np.float32) / 255))
    expected = bytes_[0] if shape[0] == 1 else np.moveaxis(bytes_, 0, -1)
    assert np.array_equal(shown, expected)


def test_other_numbers_of_channels_are_shown_in_grey():
    image = np.stack([np.full((4, 4), share, dtype=np.float32) for share in (0.0, 1.0)])
    assert pixels(picture(image)).tolist() == np.full((4, 4), 128).tolist()


def test_pixel_bounds_become_black_and_white():
    image = np.array([[[-1.0, 0.0, 1.0]]], dtype=np.float32)
    assert pixels(picture(image, low=-1.0, high=1.0)).tolist() == [[0, 128, 255]]


def test_pixels_that_are_not_finite_are_drawn():
    image = np.array([[[np.nan, np.inf, -np.inf]]], dtype=np.float32)
    assert pixels(picture(image)).tolist() == [[0, 255, 0]]


def test_a_large_image_is_shrunk():
    assert max(pixels(picture(np.zeros((3, 900, 600), dtype=np.float32))).shape) == LARGEST


def test_a_perturbation_shows_its_sign():
    delta = np.array([[[0.1, -0.1, 0.0, 0.05]]], dtype=np.float32)
    brighter, darker, nothing, half = pixels(perturbation(delta))[0].tolist()
    assert brighter == [213, 94, 0]
    assert darker == [0, 114, 178]
    assert nothing == [255, 255, 255]
    assert half == [234, 174, 128]


def test_a_perturbation_of_colours_lies_around_grey():
    delta = np.zeros((3, 1, 3), dtype=np.float32)
    delta[0, 0, 0], delta[2, 0, 1] = 0.2, -0.2
    assert pixels(perturbation(delta))[0].tolist() == [[255, 128, 128], [128, 128, 0], [128, 128, 128]]


def test_no_perturbation_is_white():
    assert pixels(perturbation(np.zeros((1, 2, 2), dtype=np.float32))).min() == 255
