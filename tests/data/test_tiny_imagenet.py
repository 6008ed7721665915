import errno
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from unmask.data import DataSet, available, load_data, tiny_imagenet
from unmask.errors import DataError, OutputError

TOP = "tiny-imagenet-200/"
WNIDS = ["n02", "n01"]  # not sorted: the order of the file is what counts


def jpeg(seed: int, *, side: int = 64, mode: str = "RGB") -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(values).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).transpose(2, 0, 1)


def official() -> dict[str, bytes]:
    """The members of a small archive in the official form; the first image of n01 is grey."""
    return {
        "wnids.txt": "\n".join(WNIDS).encode() + b"\n",
        "words.txt": b"n00\tnot used\nn01\tgoldfish, Carassius auratus\nn02\tbullfrog\n",
        "train/n01/n01_boxes.txt": b"n01_0.JPEG\t0\t0\t63\t63\n",
        "train/n01/images/n01_0.JPEG": jpeg(0, mode="L"),
        "train/n01/images/n01_10.JPEG": jpeg(1),
        "train/n01/images/n01_2.JPEG": jpeg(2),
        "train/n02/images/n02_499.JPEG": jpeg(3),
        "val/val_annotations.txt": b"val_10.JPEG\tn01\t0\t0\t63\t63\nval_9.JPEG\tn02\t0\t0\t63\t63\n",
        "val/images/val_9.JPEG": jpeg(4),
        "val/images/val_10.JPEG": jpeg(5),
        "test/images/test_0.JPEG": jpeg(6),
    }


def write_zip(path: Path, members: dict[str, bytes], top: str = TOP) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(top + name, content)
    return path


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "tiny-imagenet-200.zip", official())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prepare_and_load_the_official_layout(tmp_path: Path, zip_path: Path) -> None:
    folder = tiny_imagenet.prepare(zip_path, tmp_path)
    assert folder == tmp_path / "tiny-imagenet"
    assert names(folder) == ["train.safetensors", "val.safetensors"]
    assert available("tiny-imagenet", tmp_path)
    train, val = (load_data("tiny-imagenet", split, data_dir=tmp_path) for split in ("train", "val"))
    assert train.ids.tolist() == [499, 500, 502, 510]
    assert train.labels.tolist() == [0, 1, 1, 1]
    assert (val.ids.tolist(), val.labels.tolist()) == ([9, 10], [0, 1])
    assert train.classes == val.classes == ("bullfrog", "goldfish, Carassius auratus")
    assert (train.name, train.split, train.scale, train.input_shape) == ("tiny-imagenet", "train", 255, (3, 64, 64))


def test_images_are_decoded_to_rgb_and_keep_their_ids(tmp_path: Path, zip_path: Path) -> None:
    tiny_imagenet.prepare(zip_path, tmp_path)
    train, val = (load_data("tiny-imagenet", split, data_dir=tmp_path) for split in ("train", "val"))
    in_order = [jpeg(3), jpeg(0, mode="L"), jpeg(2), jpeg(1)]
    assert np.array_equal(train.images.numpy(), np.stack([decoded(content) for content in in_order]))
    assert np.array_equal(val.images.numpy(), np.stack([decoded(jpeg(4)), decoded(jpeg(5))]))
    grey = train.images[1]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])


def test_test_means_val_because_test_has_no_labels(tmp_path: Path, zip_path: Path) -> None:
    tiny_imagenet.prepare(zip_path, tmp_path)
    assert load_data("tiny-imagenet", data_dir=tmp_path).split == "val"


def test_a_zip_without_the_top_folder_gives_the_same(tmp_path: Path, zip_path: Path) -> None:
    flat = write_zip(tmp_path / "flat.zip", dict(reversed(official().items())), top="")
    tiny_imagenet.prepare(zip_path, tmp_path / "a")
    tiny_imagenet.prepare(flat, tmp_path / "b")
    a, b = (load_data("tiny-imagenet", "train", data_dir=tmp_path / each) for each in "ab")
    assert a.fingerprint() == b.fingerprint()


def test_progress_counts_every_image(tmp_path: Path, zip_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    tiny_imagenet.prepare(zip_path, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wnids.txt": None}, "holds wnids.txt 0 times"),
        ({"copy/wnids.txt": b"n01\n"}, "holds wnids.txt 2 times"),
        ({"words.txt": None}, "lacks words.txt"),
        ({"val/val_annotations.txt": None}, "lacks val/val_annotations.txt"),
        ({"val/images/val_9.JPEG": None}, "lacks val/images/val_9.JPEG"),
        ({"train/n02/images/n02_499.JPEG": None}, "lacks training images of n02"),
        ({"wnids.txt": b""}, "wnids.txt is empty or names a class twice"),
        ({"wnids.txt": b"n01\nn01\n"}, "wnids.txt is empty or names a class twice"),
        ({"wnids.txt": b"\xff\xfe"}, "wnids.txt is not UTF-8"),
        ({"wnids.txt": b"n01\nn02\nn03\n"}, "words.txt does not name the class n03"),
        ({"train/n02/images/other.JPEG": b""}, "train/n02/images/other.JPEG is not"),
        ({"train/n02/images/n02_500.JPEG": jpeg(0)}, "n02_500.JPEG is not"),
        ({"train/n03/images/n03_0.JPEG": jpeg(0)}, "n03_0.JPEG is not"),
        ({"val/images/val_11.JPEG": jpeg(0)}, "gives no label for val/images/val_11.JPEG"),
        ({"val/val_annotations.txt": b"val_9.JPEG\tn05\n"}, "val_9.JPEG.*known class"),
        ({"val/val_annotations.txt": b"val_9.JPEG\n"}, "val_9.JPEG.*known class"),
        ({"val/val_annotations.txt": b"../val_9.JPEG\tn01\n"}, "known class"),
        ({"val/images/val_9.JPEG": jpeg(0, side=65)}, "val_9.JPEG is 65x65, expected 64x64"),
        ({"val/images/val_9.JPEG": jpeg(0)[:300]}, "val_9.JPEG cannot be decoded"),
        ({"val/images/val_9.JPEG": b"GIF89a"}, "val_9.JPEG cannot be decoded"),
        ({"words.txt": bytes(16 * 2**20 + 1)}, "words.txt claims 16777217 bytes"),
        ({"../../evil.txt": b""}, "'tiny-imagenet-200/../../evil.txt' points outside"),
        ({"train\\..\\evil.txt": b""}, "points outside"),
    ],
)
def test_a_zip_of_another_form_is_refused(tmp_path: Path, changes: dict[str, bytes | None], message: str) -> None:
    members = {name: content for name, content in {**official(), **changes}.items() if content is not None}
    path = write_zip(tmp_path / "bad.zip", members)
    with pytest.raises(DataError, match=message) as caught:
        tiny_imagenet.prepare(path, tmp_path / "data")
    assert "bad.zip" in str(caught.value)
    assert not available("tiny-imagenet", tmp_path / "data")


@pytest.mark.parametrize("name", ["/etc/evil", "C:/evil", "..", "a/../../b"])
def test_paths_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    members = {**{TOP + key: content for key, content in official().items()}, name: b""}
    path = write_zip(tmp_path / "bad.zip", members, top="")
    with pytest.raises(DataError, match="points outside the archive"):
        tiny_imagenet.prepare(path, tmp_path / "data")
    assert names(tmp_path) == ["bad.zip"]


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    for path in (tmp_path / "bad.zip", tmp_path / "absent.zip"):
        with pytest.raises(DataError, match="cannot be opened"):
            tiny_imagenet.prepare(path, tmp_path / "data")


def test_a_changed_byte_in_an_image_is_refused(tmp_path: Path, zip_path: Path) -> None:
    content = jpeg(4)
    whole = zip_path.read_bytes()
    place = whole.index(content) + len(content) // 2
    zip_path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DataError, match=r"val_9.JPEG cannot be read.*CRC"):
        tiny_imagenet.prepare(zip_path, tmp_path / "data")


def prepared(tmp_path: Path) -> DataSet:
    return load_data("tiny-imagenet", "train", data_dir=tmp_path)


@pytest.mark.parametrize("when", [1, 5, 6])
def test_an_interruption_leaves_what_was_there(tmp_path: Path, zip_path: Path, when: int) -> None:
    tiny_imagenet.prepare(zip_path, tmp_path)
    before = prepared(tmp_path).fingerprint()
    other = write_zip(tmp_path / "other.zip", {**official(), "train/n02/images/n02_499.JPEG": jpeg(99)})

    def interrupt(done: int, total: int) -> None:
        if done == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_imagenet.prepare(other, tmp_path, progress=interrupt)
    assert names(tmp_path / "tiny-imagenet") == ["train.safetensors", "val.safetensors"]
    assert prepared(tmp_path).fingerprint() == before
    tiny_imagenet.prepare(other, tmp_path)
    assert prepared(tmp_path).fingerprint() != before


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, zip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny_imagenet, "save_file", full)
    with pytest.raises(OutputError, match=r"cannot be written.*No space left"):
        tiny_imagenet.prepare(zip_path, tmp_path / "data")
    assert names(tmp_path / "data" / "tiny-imagenet") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, zip_path: Path) -> None:
    with pytest.raises(OutputError, match=r"tiny-imagenet-200\.zip/tiny-imagenet cannot be written"):
        tiny_imagenet.prepare(zip_path, zip_path)


def test_prepared_files_can_be_read_by_everybody(tmp_path: Path, zip_path: Path) -> None:
    folder = tiny_imagenet.prepare(zip_path, tmp_path)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_absent_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Tiny ImageNet \(train\) was not found.*unmask data prepare tiny-imagenet.*UNMASK_DATA"
    ) as caught:
        load_data("tiny-imagenet", "train", data_dir=tmp_path, download=True)
    assert str(tmp_path / "tiny-imagenet" / "train.safetensors") in str(caught.value)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tiny-imagenet split 'valid'. Did you mean 'val'"):
        load_data("tiny-imagenet", "valid", data_dir=tmp_path)


def test_damaged_prepared_files_are_refused(tmp_path: Path, zip_path: Path) -> None:
    path = tiny_imagenet.prepare(zip_path, tmp_path) / "train.safetensors"
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:-10], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train\.safetensors is damaged.*prepare Tiny ImageNet again"):
            prepared(tmp_path)
    for metadata in (None, {"classes": "not json"}, {"classes": "3"}):
        save_file({"images": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(DataError, match=r"train\.safetensors is damaged"):
            prepared(tmp_path)


@pytest.mark.real
@pytest.mark.slow
def test_the_real_subset_can_be_prepared(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "tiny-imagenet" / "tiny-imagenet-200.zip"
    if not path.is_file():
        pytest.skip("tiny-imagenet/tiny-imagenet-200.zip is not under UNMASK_DATA")
    tiny_imagenet.prepare(path, tmp_path)
    train, val = (load_data("tiny-imagenet", split, data_dir=tmp_path) for split in ("train", "val"))
    assert len(train.classes) == 200
    assert train.classes[0] == "Egyptian cat"
    for data in (train, val):
        counts = data.labels.bincount()
        assert len(counts) == 200 and bool((counts == counts[0]).all())
        assert 0.1 < data.pixels().mean().item() < 0.9
