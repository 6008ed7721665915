import io
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.data import load_data
from unmask.errors import DataError

CHANNELS_LAST = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 2], dtype=np.uint8)


def write(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_file_with_splits_loads_as_cifar_subsets_come(tmp_path: Path) -> None:
    path = write(
        tmp_path / "subset.npz",
        x_train=CHANNELS_LAST,
        y_train=LABELS,
        train_index=np.array([9, 8, 7, 6]),
        x_test=CHANNELS_LAST[:2],
        y_test=LABELS[1:3],
    )
    train, test = load_data(path, "train"), load_data(str(path), "test")
    assert np.array_equal(train.images.numpy(), CHANNELS_LAST.transpose(0, 3, 1, 2))
    assert (train.images.dtype, train.scale, train.input_shape) == (torch.uint8, 255, (3, 5, 6))
    assert train.images.is_contiguous()
    assert train.ids.tolist() == [0, 1, 2, 3]
    assert (train.name, train.split, test.split) == ("subset", "train", "test")
    assert test.labels.tolist() == [0, 1]
    # The test split lacks class 2, yet a model of this set has three outputs.
    assert train.classes == test.classes == ("0", "1", "2")


def test_a_file_without_splits_gives_the_same_whole_for_every_split(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.npz", x=CHANNELS_LAST, y=LABELS)
    loaded = [load_data(path, split) for split in ("train", "test")]
    assert [data.split for data in loaded] == ["all", "all"]
    assert loaded[0].fingerprint() == loaded[1].fingerprint()


def test_a_split_comes_before_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "both.npz", x=CHANNELS_LAST, y=LABELS, x_test=CHANNELS_LAST[:1], y_test=LABELS[:1])
    assert len(load_data(path, "test")) == 1
    assert len(load_data(path, "train")) == 4


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (CHANNELS_LAST.transpose(0, 3, 1, 2), CHANNELS_LAST.transpose(0, 3, 1, 2)),
        (CHANNELS_LAST[..., 0], CHANNELS_LAST[:, None, :, :, 0]),
        (CHANNELS_LAST[..., :1], CHANNELS_LAST[:, None, :, :, 0]),
    ],
    ids=["channels first", "no channels", "one channel last"],
)
def test_every_layout_becomes_channels_first(tmp_path: Path, images: np.ndarray, expected: np.ndarray) -> None:
    data = load_data(write(tmp_path / "a.npz", x=images, y=LABELS))
    assert np.array_equal(data.images.numpy(), expected)


@pytest.mark.parametrize("type_", ["float16", "float32", "float64", ">f8"])
def test_floats_in_the_unit_interval_become_float32(tmp_path: Path, type_: str) -> None:
    images = (CHANNELS_LAST / 255).astype(type_)
    data = load_data(write(tmp_path / "a.npz", x=images, y=LABELS))
    assert (data.images.dtype, data.scale) == (torch.float32, 1)
    assert np.array_equal(data.pixels().numpy(), images.astype(np.float32).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("labels", [LABELS.astype(np.int64), LABELS.astype(">i4"), LABELS[:, None]])
def test_labels_may_be_any_integers_in_one_column(tmp_path: Path, labels: np.ndarray) -> None:
    assert load_data(write(tmp_path / "a.npz", x=CHANNELS_LAST, y=labels)).labels.tolist() == [2, 0, 1, 2]


def test_class_names_are_taken_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x=CHANNELS_LAST, y=LABELS, classes=np.array(["cat", "dog", "Ångström", "cow"]))
    assert load_data(path).classes == ("cat", "dog", "Ångström", "cow")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_stated_layout_settles_ambiguous_shapes(tmp_path: Path, layout: str) -> None:
    images = np.arange(4 * 3 * 7 * 3, dtype=np.uint8).reshape(4, 3, 7, 3)
    data = load_data(write(tmp_path / "a.npz", x=images, y=LABELS, layout=np.array(layout)))
    assert np.array_equal(data.images.numpy(), images if layout == "NCHW" else images.transpose(0, 3, 1, 2))


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["x", "y", "classes", "layout"])
def test_pickled_objects_are_refused_and_not_run(tmp_path: Path, key: str) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")], dtype=object)
    path = write(tmp_path / "a.npz", **{"x": CHANNELS_LAST, "y": LABELS, key: trap})
    with pytest.raises(DataError, match=f"key '{key}' cannot be read.*could run code"):
        load_data(path)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load_data(path)
    assert not (tmp_path / "sprung").exists()


def test_pickled_extra_keys_do_no_harm(tmp_path: Path) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")], dtype=object)
    assert len(load_data(write(tmp_path / "a.npz", x=CHANNELS_LAST, y=LABELS, notes=trap))) == 4
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"holds the keys \(none\)\. Expected x_test and y_test, or x and y"),
        ({"x_train": CHANNELS_LAST, "y_train": LABELS}, "holds the keys x_train, y_train. Expected x_test"),
        ({"x": CHANNELS_LAST}, "Expected x_test and y_test"),
        ({"x": CHANNELS_LAST.astype(np.float32), "y": LABELS}, "floats from 0 to 255.*divide 0-255 values by 255"),
        ({"x": CHANNELS_LAST / 255 - 0.5, "y": LABELS}, "floats from -0.5 to 0.5.*undo a normalisation"),
        ({"x": np.full((4, 5, 5), np.nan), "y": LABELS}, "floats from nan to nan"),
        ({"x": np.full((4, 5, 5), 1e300), "y": LABELS}, "floats from inf to inf"),
        ({"x": CHANNELS_LAST.astype(np.int64), "y": LABELS}, "type int64. Expected uint8"),
        ({"x": CHANNELS_LAST > 9, "y": LABELS}, "type bool. Expected uint8"),
        ({"x": CHANNELS_LAST[:, 0, 0], "y": LABELS}, r"key 'x' has shape \(4, 3\)"),
        ({"x": np.zeros((4, 3, 3, 3), np.uint8), "y": LABELS}, "does not say where the channels are.*'layout'"),
        ({"x": np.zeros((4, 5, 5, 4), np.uint8), "y": LABELS}, "does not say where the channels are"),
        ({"x": CHANNELS_LAST, "y": LABELS, "layout": np.array("HWCN")}, "'HWCN'. Expected 'NHWC' or 'NCHW'"),
        ({"x": CHANNELS_LAST, "y": LABELS[:3]}, r"key 'y' has type uint8 and shape \(3,\)\. Expected .*\(4,\)"),
        ({"x": CHANNELS_LAST, "y": np.eye(4, dtype=np.int64)}, r"shape \(4, 4\)"),
        ({"x": CHANNELS_LAST, "y": LABELS.astype(float)}, "type float64"),
        ({"x": CHANNELS_LAST, "y": LABELS.astype(int) - 1}, "labels run from -1 to 1"),
        ({"x": CHANNELS_LAST, "y": LABELS.astype(int) + 10**12}, "label 1000000000002. Expected class numbers"),
        ({"x": CHANNELS_LAST, "y": LABELS, "classes": np.array(["a", "b"])}, "labels run from 0 to 2.*2 classes"),
        ({"x": CHANNELS_LAST, "y": LABELS, "classes": np.array([1, 2, 3])}, "key 'classes' has type int64"),
        ({"x": CHANNELS_LAST[:0], "y": LABELS[:0]}, "at least 1"),
        ({"x": CHANNELS_LAST[:0] / 255, "y": LABELS[:0]}, "at least 1"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(write(tmp_path / "a.npz", **arrays))


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, CHANNELS_LAST)
    with pytest.raises(DataError, match=r"single array.*numpy.savez"):
        load_data(path)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "text")
        archive.writestr("y.npy", "text")
    with pytest.raises(DataError, match="key 'x' is not an array"):
        load_data(path)


def test_an_array_that_announces_more_than_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**58, 1, 1, 1)})
    path = write(tmp_path / "a.npz", y=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError, match="key 'x' cannot be read"):
        load_data(path)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 10_000), st.booleans())
def test_damaged_files_never_raise_anything_else(noise: bytes, place: int, compressed: bool) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=CHANNELS_LAST, y=LABELS)
    content = buffer.getvalue()
    place %= len(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(content[:place] + noise + content[place + len(noise) :])
        try:
            data = load_data(path)
        except DataError as problem:
            assert "a.npz" in str(problem) or "a (all)" in str(problem)
        else:
            assert len(data) == 4


@given(
    st.lists(st.tuples(st.integers(6, 127), st.sampled_from(b"()'{},:0129<>|fuUOSVM \n\\#*L")), min_size=1, max_size=4)
)
# numpy warns where it takes a header for one of Python 2.
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required:UserWarning")
def test_damaged_array_headers_never_raise_anything_else(changes: list[tuple[int, int]]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, CHANNELS_LAST)
    member = bytearray(buffer.getvalue())
    for place, value in changes:
        member[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.npz", y=LABELS)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("x.npy", bytes(member))
        try:
            data = load_data(path)
        except DataError as problem:
            assert "key 'x'" in str(problem) or "a (all)" in str(problem)
        else:
            assert len(data) == 4


@given(st.integers(0, 10_000))
def test_files_cut_short_are_refused(length: int) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=CHANNELS_LAST, y=LABELS)
    content = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(content[: length % len(content)])
        with pytest.raises(DataError, match=r"a\.npz"):
            load_data(path)


@pytest.mark.real
@pytest.mark.parametrize(("split", "count"), [("train", 8152), ("test", 1017)])
def test_the_real_cifar_subset_loads(real_data: Path, split: str, count: int) -> None:
    path = real_data / "cifar10" / "cifar10_lossless_subset.npz"
    if not path.is_file():
        pytest.skip("cifar10/cifar10_lossless_subset.npz is not under UNMASK_DATA")
    data = load_data(path, split)
    assert (len(data), data.input_shape, data.scale, len(data.classes)) == (count, (3, 32, 32), 255, 10)
    if split == "test":
        assert data.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
