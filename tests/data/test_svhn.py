import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from scipy.io import savemat

from unmask.data import available, load_data
from unmask.errors import DataError

LABELS = [10, 1, 9, 10, 5]  # the files call the digit zero 10


@pytest.fixture
def write_svhn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """Write a small file in the official form, make torchvision expect it, and return its images (N, 32, 32, 3)."""

    def write(root: Path, split: str, url: str = "") -> np.ndarray:
        name = f"{split}_32x32.mat"
        images = np.random.default_rng(len(split)).integers(0, 256, (len(LABELS), 32, 32, 3), dtype=np.uint8)
        root.mkdir(parents=True, exist_ok=True)
        savemat(root / name, {"X": images.transpose(1, 2, 3, 0), "y": np.array(LABELS, dtype=np.uint8)[:, None]})
        md5 = hashlib.md5((root / name).read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(torchvision.datasets.SVHN.split_list, split, [url + name, name, md5])
        return images

    return write


@pytest.mark.parametrize("split", ["train", "test", "extra"])
@pytest.mark.parametrize("folder", ["svhn", "."])
def test_reads_the_official_files(
    tmp_path: Path, write_svhn: Callable[..., np.ndarray], split: str, folder: str
) -> None:
    images = write_svhn(tmp_path / folder, split)
    data = load_data("svhn", split, data_dir=tmp_path)
    assert np.array_equal(data.images.numpy(), images.transpose(0, 3, 1, 2))
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [0, 1, 9, 0, 5]
    assert data.ids.tolist() == [0, 1, 2, 3, 4]
    assert (data.name, data.split, data.scale, data.classes) == ("svhn", split, 255, tuple("0123456789"))


def test_available_needs_train_and_test(tmp_path: Path, write_svhn: Callable[..., np.ndarray]) -> None:
    write_svhn(tmp_path / "svhn", "test")
    assert not available("svhn", tmp_path)
    write_svhn(tmp_path / "svhn", "train")
    assert available("svhn", tmp_path)


def test_absent_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SVHN \(test\) was not found.*test_32x32.mat.*--download.*UNMASK_DATA"):
        load_data("svhn", data_dir=tmp_path)


def test_a_changed_file_is_refused(tmp_path: Path, write_svhn: Callable[..., np.ndarray]) -> None:
    write_svhn(tmp_path, "test")
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"SVHN could not be .*corrupted"):
        load_data("svhn", data_dir=tmp_path)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no svhn split 'val'"):
        load_data("svhn", "val", data_dir=tmp_path)


def test_download_fetches_the_file(
    tmp_path: Path, write_svhn: Callable[..., np.ndarray], serve: Callable[[Path], str]
) -> None:
    images = write_svhn(tmp_path / "server", "test", serve(tmp_path / "server"))
    data = load_data("svhn", data_dir=tmp_path / "cache", download=True)
    assert np.array_equal(data.images.numpy(), images.transpose(0, 3, 1, 2))
    assert (tmp_path / "cache" / "svhn" / "test_32x32.mat").is_file()
