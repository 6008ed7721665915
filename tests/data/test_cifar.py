import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision

from unmask.data import available, load_data
from unmask.errors import DataError

NAMES = [f"class {number}" for number in range(10)]
FAMILIES = {
    "cifar10": (torchvision.datasets.CIFAR10, "cifar-10-batches-py", ["data_batch_1", "data_batch_2"], "test_batch"),
    "cifar100": (torchvision.datasets.CIFAR100, "cifar-100-python", ["train"], "test"),
}


class _OldSpelling:
    """Warns while it is unpickled, as numpy 2.4.0 to 2.4.4 do when they read the official files."""

    def __reduce__(self) -> tuple[object, ...]:
        return warnings.warn, ("dtype(): align should be a boolean", np.exceptions.VisibleDeprecationWarning)


def batch(count: int, key: str, seed: int) -> dict[str, object]:
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, key: random.integers(0, 10, count).tolist(), "spelling": _OldSpelling()}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def write_cifar(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], dict[str, list[dict[str, object]]]]:
    """Write a small archive in the official form and make torchvision expect its checksums."""

    def write(root: Path, name: str) -> dict[str, list[dict[str, object]]]:
        kind, folder, train, test = FAMILIES[name]
        key = "labels" if name == "cifar10" else "fine_labels"
        meta = kind.meta["filename"]
        contents = {file: batch(4, key, seed) for seed, file in enumerate([*train, test])}
        (root / folder).mkdir(parents=True)
        for file, content in {**contents, meta: {kind.meta["key"]: NAMES}}.items():
            (root / folder / file).write_bytes(pickle.dumps(content, protocol=2))
        monkeypatch.setattr(kind, "train_list", [[file, md5(root / folder / file)] for file in train])
        monkeypatch.setattr(kind, "test_list", [[test, md5(root / folder / test)]])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(root / folder / meta)})
        return {"train": [contents[file] for file in train], "test": [contents[test]]}

    return write


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("nested", [True, False])
def test_reads_the_official_files(
    tmp_path: Path, write_cifar: Callable[..., dict[str, list[dict[str, object]]]], name: str, split: str, nested: bool
) -> None:
    batches = write_cifar(tmp_path / name if nested else tmp_path, name)[split]
    data = load_data(name, split, data_dir=tmp_path)
    pixels = np.concatenate([each["data"] for each in batches]).reshape(-1, 3, 32, 32)
    key = "labels" if name == "cifar10" else "fine_labels"
    assert np.array_equal(data.images.numpy(), pixels)
    assert data.images.is_contiguous()
    assert data.labels.tolist() == [label for each in batches for label in each[key]]
    assert data.ids.tolist() == list(range(4 * len(batches)))
    assert (data.name, data.split, data.scale, data.classes) == (name, split, 255, tuple(NAMES))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_absent_files_are_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"was not found.*--download.*--data-dir.*UNMASK_DATA") as caught:
        load_data(name, data_dir=tmp_path)
    assert str(tmp_path / name / FAMILIES[name][1]) in str(caught.value)
    assert not available(name, tmp_path)


def test_a_changed_file_is_refused(tmp_path: Path, write_cifar: Callable[[Path, str], object]) -> None:
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert available("cifar10", tmp_path)
    with pytest.raises(DataError, match=r"CIFAR-10 could not be .*corrupted.*delete incomplete files") as caught:
        load_data("cifar10", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no cifar10 split 'tests'. Did you mean 'test'"):
        load_data("cifar10", "tests", data_dir=tmp_path)


def test_download_fetches_the_archive(
    tmp_path: Path,
    write_cifar: Callable[..., dict[str, list[dict[str, object]]]],
    serve: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = tmp_path / "server"
    batches = write_cifar(server, "cifar10")["test"]
    archive = server / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(server / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", serve(server) + archive.name)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(archive))
    data = load_data("cifar10", data_dir=tmp_path / "cache", download=True)
    assert data.labels.tolist() == batches[0]["labels"]
    assert available("cifar10", tmp_path / "cache")


def test_a_download_without_a_network_is_a_clear_error(
    tmp_path: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", nowhere + "cifar.tar.gz")
    with pytest.raises(DataError, match=r"CIFAR-10 could not be fetched.*Check the network connection"):
        load_data("cifar10", data_dir=tmp_path, download=True)
