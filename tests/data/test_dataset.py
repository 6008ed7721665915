import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.data import DataSet
from unmask.errors import DataError


def numbered(count: int, *, order: list[int] | None = None) -> DataSet:
    """Images whose pixels say which example they are: id = 10 * number, label = number % 3."""
    numbers = torch.tensor(order if order is not None else list(range(count)))
    images = torch.stack([numbers % 256, numbers // 256], dim=1).to(torch.uint8)[:, None, None, :]
    return DataSet("numbered", "test", images, numbers % 3, numbers * 10, 255, ("a", "b", "c"))


def valid() -> dict[str, object]:
    return {
        "name": "toy",
        "split": "test",
        "images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "ids": torch.tensor([4, 7]),
        "scale": 255,
        "classes": ("cat", "dog"),
    }


def assert_consistent(data: DataSet) -> None:
    """Every id still belongs to its own image and label."""
    numbers = data.images[:, 0, 0, 0].long() + 256 * data.images[:, 0, 0, 1].long()
    assert torch.equal(data.ids, numbers * 10)
    assert torch.equal(data.labels, numbers % 3)


def test_pixels_are_the_exact_quotients_in_float32() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = DataSet("bytes", "test", every_byte, torch.tensor([0]), torch.tensor([0]), 255, ("a",))
    pixels = data.pixels()
    assert pixels.dtype == torch.float32
    assert np.array_equal(pixels.numpy().ravel(), np.arange(256, dtype=np.float32) / np.float32(255))
    assert torch.equal((pixels * 255).round().to(torch.uint8), every_byte)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pixels_and_fingerprint_are_the_same_on_a_gpu() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = DataSet("bytes", "test", every_byte, torch.tensor([0]), torch.tensor([0]), 255, ("a",))
    moved = data.to("cuda")
    assert moved.pixels().is_cuda
    assert torch.equal(moved.pixels().cpu(), data.pixels())
    assert moved.fingerprint() == data.fingerprint()
    assert torch.equal(moved.select(torch.tensor([0])).images.cpu(), data.images)


def test_pixels_of_float_data_are_a_copy() -> None:
    images = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    data = DataSet(**{**valid(), "images": images.clone(), "scale": 1})
    data.pixels().zero_()
    assert torch.equal(data.images, images)


@given(st.integers(1, 60), st.data(), st.integers(0, 2**63 - 1))
def test_a_sample_has_no_duplicates_is_ordered_and_keeps_ids(count: int, data: st.DataObject, seed: int) -> None:
    n = data.draw(st.integers(1, count))
    sample = numbered(count).sample(n, seed)
    assert len(sample) == n
    assert bool((sample.ids[1:] > sample.ids[:-1]).all())
    assert_consistent(sample)


@given(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))), st.integers(0, 1000), st.data())
def test_a_sample_does_not_depend_on_the_order_of_the_set(order: list[int], seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(order)))
    sample = numbered(len(order), order=order).sample(n, seed)
    assert sample.fingerprint() == numbered(len(order)).sample(n, seed).fingerprint()


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_smaller_sample_is_part_of_a_larger_one(count: int, seed: int) -> None:
    data = numbered(count)
    assert set(data.sample(count // 2, seed).ids.tolist()) <= set(data.sample(count // 2 + 1, seed).ids.tolist())


def test_samples_of_different_seeds_differ_and_every_example_can_be_drawn() -> None:
    data = numbered(1000)
    samples = [set(data.sample(200, seed).ids.tolist()) for seed in range(60)]
    assert len({frozenset(sample) for sample in samples}) == 60
    assert set().union(*samples) == set(data.ids.tolist())


def test_sampling_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    numbered(50).sample(10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)))), st.data())
def test_a_selection_keeps_ids_in_the_order_asked_for(case: tuple[int, list[int]], data: st.DataObject) -> None:
    count, order = case
    index = torch.tensor(order[: data.draw(st.integers(1, count))])
    selected = numbered(count).select(index)
    assert selected.ids.tolist() == (index * 10).tolist()
    assert_consistent(selected)


def test_first_takes_the_first_examples() -> None:
    first = numbered(9).first(4)
    assert first.ids.tolist() == [0, 10, 20, 30]
    assert_consistent(first)
    assert (first.name, first.split, first.scale, first.classes) == ("numbered", "test", 255, ("a", "b", "c"))


@pytest.mark.parametrize("n", [0, -1, 10])
def test_a_count_that_the_set_does_not_hold_is_refused(n: int) -> None:
    for take in (lambda: numbered(9).first(n), lambda: numbered(9).sample(n, seed=0)):
        with pytest.raises(DataError, match=rf"Asked for {n} examples of numbered \(test\), which holds 9.*1 to 9"):
            take()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(DataError, match="seed"):
        numbered(9).sample(2, seed)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 9]), r"from 0 to 9, but numbered \(test\) holds 9"),
        (torch.tensor([-1]), "from -1 to -1"),
        (torch.tensor([0.0]), "torch.float32"),
        (torch.tensor([[0]]), r"\(1, 1\)"),
        (torch.tensor([2, 2]), "id 20 occurs twice"),
        (torch.tensor([], dtype=torch.int64), "at least 1"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(index: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbered(9).select(index)


def test_length_shape_and_representation() -> None:
    data = DataSet(**{**valid(), "images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8)})
    assert (len(data), data.input_shape) == (2, (3, 4, 5))
    assert repr(data) == "DataSet(name='toy', split='test', scale=255)"


def test_to_moves_all_tensors_and_nothing_else() -> None:
    data = numbered(5)
    moved = data.to("cpu")
    assert moved.fingerprint() == data.fingerprint()
    assert {moved.images.device.type, moved.labels.device.type, moved.ids.device.type} == {"cpu"}


def test_a_data_set_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbered(3).scale = 1  # type: ignore[misc]


def test_fingerprint_is_the_documented_sha256() -> None:
    data = DataSet(**valid())
    content = (
        b"scale 255"
        b"; torch.uint8 (2, 1, 3, 3): " + bytes(18) + b"; torch.int64 (2,): "
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"
        b"; torch.int64 (2,): \x04\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"
    )
    assert data.fingerprint() == hashlib.sha256(content).hexdigest()


@given(
    st.lists(st.integers(0, 255), min_size=24, max_size=24),
    st.integers(0, 23),
    st.integers(1, 255),
)
def test_fingerprint_changes_with_any_byte_of_the_images(values: list[int], place: int, change: int) -> None:
    images = torch.tensor(values, dtype=torch.uint8).reshape(2, 3, 2, 2)
    changed = images.clone()
    changed.view(-1)[place] ^= change
    data, other = (DataSet(**{**valid(), "images": each}) for each in (images, changed))
    assert data.fingerprint() != other.fingerprint()
    assert data.fingerprint() == DataSet(**{**valid(), "images": images.clone()}).fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": torch.tensor([1, 1])},
        {"ids": torch.tensor([4, 8])},
        {"ids": torch.tensor([4, 7 + 2**40])},
        {"scale": 254},
        {"images": torch.zeros(2, 1, 1, 9, dtype=torch.uint8)},
        {"images": torch.zeros(2, 1, 3, 3)},
    ],
)
def test_fingerprint_changes_with_labels_ids_scale_shape_and_type(changes: dict[str, object]) -> None:
    assert DataSet(**{**valid(), **changes}).fingerprint() != DataSet(**valid()).fingerprint()


def test_fingerprint_does_not_depend_on_memory_layout() -> None:
    images = torch.arange(48, dtype=torch.uint8).reshape(2, 3, 2, 4)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert channels_last.stride() != images.stride()
    fingerprints = {DataSet(**{**valid(), "images": each}).fingerprint() for each in (images, channels_last)}
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(2, 3, 3, dtype=torch.uint8)}, r"shape \(2, 3, 3\)\. Expected \(N, C, H, W\)"),
        ({"images": torch.zeros(2, 0, 3, 3, dtype=torch.uint8)}, "at least 1"),
        ({"images": torch.zeros(2, 1, 3, 3, dtype=torch.float64)}, "torch.float64. Convert"),
        ({"images": torch.zeros(3, 1, 3, 3, dtype=torch.uint8)}, r"labels are torch.int64 of shape \(2,\)"),
        ({"labels": torch.tensor([0, 1], dtype=torch.int32)}, "labels are torch.int32"),
        ({"labels": torch.tensor([[0], [1]])}, r"labels are torch.int64 of shape \(2, 1\)"),
        ({"labels": torch.tensor([0, 2])}, "from 0 to 2, but there are 2 classes. Expected labels from 0 to 1"),
        ({"labels": torch.tensor([-1, 1])}, "from -1 to 1"),
        ({"ids": torch.tensor([4])}, r"ids are torch.int64 of shape \(1,\)"),
        ({"ids": torch.tensor([4, 4])}, "id 4 occurs twice"),
        ({"ids": torch.tensor([4, -7])}, "id -7 is negative"),
        ({"classes": ("cat",)}, "there are 1 classes"),
        ({"scale": 0}, "scale is 0"),
        ({"images": torch.full((2, 1, 3, 3), 17, dtype=torch.uint8), "scale": 16}, "from 17 to 17.*from 0 to 16"),
        ({"images": torch.full((2, 1, 3, 3), 1.5), "scale": 1}, "from 1.5 to 1.5"),
        ({"images": torch.full((2, 1, 3, 3), -0.1), "scale": 1}, "normalisation belongs inside the model"),
        ({"images": torch.full((2, 1, 3, 3), torch.nan), "scale": 1}, "nan"),
        ({"images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8, device="meta")}, "labels are on cpu, images on meta"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        DataSet(**{**valid(), **changes})
    assert str(caught.value).startswith("toy (test): ")
