import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from unmask.data import load_data
from unmask.errors import DataError

# The split is part of what quoted figures rest on: it may never move.
FINGERPRINTS = {
    "train": "d5de2886045dad71505a9ee089844f3fbb2a557ba50c4d1fdf8c6ef3170aaaf4",
    "test": "9365bf10e606ea1659ea4229737f3c46ae62b98cd17c23e2d4399ff363d9bbff",
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_ids_are_rows_of_the_original_set(split: str) -> None:
    data = load_data("digits", split)
    original = load_digits()
    assert np.array_equal(data.images[:, 0].numpy(), original.images[data.ids.numpy()])
    assert np.array_equal(data.labels.numpy(), original.target[data.ids.numpy()])
    assert (data.images.dtype, data.scale, data.input_shape) == (torch.uint8, 16, (1, 8, 8))
    assert data.classes == tuple("0123456789")
    assert bool((data.ids[1:] > data.ids[:-1]).all())


def test_the_splits_share_nothing_and_hold_everything() -> None:
    train, test = load_data("digits", "train"), load_data("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert sorted(torch.cat([train.ids, test.ids]).tolist()) == list(range(1797))
    assert set(test.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_split_is_pinned(split: str) -> None:
    assert load_data("digits", split).fingerprint() == FINGERPRINTS[split]


def test_pixels_span_the_unit_interval() -> None:
    pixels = load_data("digits").pixels()
    assert (pixels.min().item(), pixels.max().item()) == (0.0, 1.0)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"no digits split 'tset'. Did you mean 'test'"):
        load_data("digits", "tset")
