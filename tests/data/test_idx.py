import gzip
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from unmask.data import available, load_data
from unmask.errors import DataError, OutputError

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
Write = Callable[..., dict[str, np.ndarray]]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", sorted(FOLDERS))
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_reads_plain_and_gzipped_files(
    tmp_path: Path, write_idx: Write, name: str, split: str, prefix: str, zipped: bool
) -> None:
    arrays = write_idx(tmp_path / FOLDERS[name] / "raw", prefix, 5, zipped=zipped)
    data = load_data(name, split, data_dir=tmp_path)
    assert np.array_equal(data.images[:, 0].numpy(), arrays["images-idx3"])
    assert data.labels.tolist() == arrays["labels-idx1"].tolist()
    assert data.ids.tolist() == [0, 1, 2, 3, 4]
    assert (data.name, data.split, data.scale, data.images.dtype) == (name, split, 255, torch.uint8)


def test_the_classes_are_those_of_torchvision() -> None:
    from unmask.data.idx import _FAMILIES

    assert list(_FAMILIES["fashion-mnist"].classes) == torchvision.datasets.FashionMNIST.classes
    assert [name[0] for name in torchvision.datasets.MNIST.classes] == list(_FAMILIES["mnist"].classes)


def test_a_plain_file_is_preferred_and_may_be_mixed_with_a_gzipped_one(tmp_path: Path, write_idx: Write) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=True, seed=1)
    plain = write_idx(raw, "t10k", 3, zipped=False, seed=2)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    data = load_data("mnist", data_dir=tmp_path)
    assert np.array_equal(data.images[:, 0].numpy(), plain["images-idx3"])


@pytest.mark.parametrize("download", [True, False])
def test_a_read_only_folder_is_enough_and_stays_untouched(tmp_path: Path, write_idx: Write, download: bool) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=True)
    before = listing(tmp_path)
    raw.chmod(0o555)
    try:
        assert len(load_data("mnist", data_dir=tmp_path, download=download)) == 3
    finally:
        raw.chmod(0o755)
    assert listing(tmp_path) == before


def test_absent_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data("mnist", "train", data_dir=tmp_path)
    message = str(caught.value)
    for word in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "--download", "--data-dir", "UNMASK_DATA"):
        assert word in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert list(tmp_path.iterdir()) == []


def test_only_the_missing_files_are_named(tmp_path: Path, write_idx: Write) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=True)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels") as caught:
        load_data("mnist", data_dir=tmp_path)
    assert "images" not in str(caught.value)


def test_available_needs_both_splits(tmp_path: Path, write_idx: Write) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=True)
    assert not available("fashion-mnist", tmp_path)
    write_idx(raw, "train", 3, zipped=False)
    assert available("fashion-mnist", tmp_path)
    assert not available("mnist", tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "begins with the bytes"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 28, 28), "holds 0 values, its header says 1568"),
        (struct.pack(">BBBB3I", 0, 0, 13, 3, 0, 28, 28), "bytes 00 00 0d 03, expected 00 00 08 03"),
        (struct.pack(">BBBB1I", 0, 0, 8, 1, 0), "expected 00 00 08 03"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "its header says"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 0, 28, 28), "at least 1"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, write_idx: Write, header: bytes, message: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=False)
    (raw / "t10k-images-idx3-ubyte").write_bytes(header)
    with pytest.raises(DataError, match=message):
        load_data("mnist", data_dir=tmp_path)


def test_a_different_number_of_labels_is_refused(tmp_path: Path, write_idx: Write) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw, "t10k", 3, zipped=False)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"\1\2")
    with pytest.raises(DataError, match=r"labels are torch.int64 of shape \(2,\)"):
        load_data("mnist", data_dir=tmp_path)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 200), st.booleans())
def test_damaged_files_never_raise_anything_else(noise: bytes, place: int, zipped: bool) -> None:
    sound = struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 4, 4) + bytes(range(32))
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"\1\2"
    content = gzip.compress(sound) if zipped else sound
    place %= len(content)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
        damaged = content[:place] + noise + content[place + len(noise) :]
        (raw / f"t10k-images-idx3-ubyte{'.gz' if zipped else ''}").write_bytes(damaged)
        try:
            data = load_data("mnist", data_dir=folder)
        except DataError as problem:
            assert "t10k-images" in str(problem) or "labels are" in str(problem)
        else:
            assert len(data) == 2


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no mnist split 'val'. Known: test, train"):
        load_data("mnist", "val", data_dir=tmp_path)


def offer(monkeypatch: pytest.MonkeyPatch, server: Path, url: str) -> None:
    """Let torchvision fetch the small files of `server` instead of the originals."""
    from torchvision.datasets.utils import calculate_md5

    files = [(path.name, calculate_md5(path)) for path in sorted(server.iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", files)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])


def test_download_fetches_what_is_absent(
    tmp_path: Path, write_idx: Write, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "server"
    arrays = write_idx(server, "t10k", 3, zipped=True)
    write_idx(server, "train", 4, zipped=True)
    offer(monkeypatch, server, serve(server))
    data = load_data("mnist", data_dir=tmp_path / "cache", download=True)
    assert np.array_equal(data.images[:, 0].numpy(), arrays["images-idx3"])
    assert available("mnist", tmp_path / "cache")


def test_a_download_with_another_checksum_is_refused(
    tmp_path: Path, write_idx: Write, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "server"
    write_idx(server, "t10k", 3, zipped=True)
    write_idx(server, "train", 4, zipped=True)
    offer(monkeypatch, server, serve(server))
    write_idx(server, "train", 4, zipped=True, seed=9)
    with pytest.raises(DataError, match=r"MNIST could not be fetched.*corrupted"):
        load_data("mnist", "train", data_dir=tmp_path / "cache", download=True)


def test_a_download_without_a_network_is_a_clear_error(
    tmp_path: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [nowhere])
    with pytest.raises(DataError, match=r"MNIST could not be fetched.*Check the network connection.*UNMASK_DATA"):
        load_data("mnist", data_dir=tmp_path, download=True)


def test_a_download_that_cannot_be_kept_names_the_folder(
    tmp_path: Path, write_idx: Write, serve: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "server"
    write_idx(server, "t10k", 3, zipped=True)
    offer(monkeypatch, server, serve(server))
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        load_data("mnist", data_dir=blocker, download=True)
    assert str(blocker) in str(caught.value)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "split", "count", "first"),
    [
        ("mnist", "test", 10_000, [7, 2, 1, 0, 4]),
        ("mnist", "train", 60_000, [5, 0, 4, 1, 9]),
        ("fashion-mnist", "test", 10_000, [9, 2, 1, 1, 6]),
    ],
)
def test_the_real_files_hold_the_published_images(
    real_data: Path, name: str, split: str, count: int, first: list[int]
) -> None:
    if not available(name, real_data):
        pytest.skip(f"{name} is not under UNMASK_DATA")
    data = load_data(name, split, data_dir=real_data)
    assert (len(data), data.input_shape) == (count, (1, 28, 28))
    assert data.labels[:5].tolist() == first


@pytest.mark.real
def test_the_real_mnist_has_its_known_mean(real_data: Path) -> None:
    if not available("mnist", real_data):
        pytest.skip("mnist is not under UNMASK_DATA")
    pixels = load_data("mnist", "train", data_dir=real_data).pixels()
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.1307, 0.3081)
