import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data import available, imagenet, load_data
from unmask.environment import free_memory
from unmask.errors import DataError


def write(root: Path, split: str, counts: dict[str, int]) -> None:
    """Lay out noisy pictures of unequal sizes, `counts` of them per class."""
    random = np.random.default_rng(0)
    for wnid, count in counts.items():
        (root / split / wnid).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / wnid / f"{wnid}_{number}.JPEG")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write(tmp_path / "imagenet", "train", {"n01": 1, "n02": 3, "n03": 2})
    write(tmp_path / "imagenet", "val", {"n01": 1, "n02": 1, "n03": 1})
    return tmp_path


@pytest.mark.parametrize(("name", "side"), [("imagenet", 299), ("imagenet-224", 224)])
def test_images_are_squares_of_the_architecture_s_size(data_dir: Path, name: str, side: int) -> None:
    assert available(name, data_dir)
    data = load_data(name, "train", data_dir=data_dir)
    assert (data.name, data.split, data.input_shape, data.scale) == (name, "train", (3, side, side), 255)
    assert data.classes == ("n01", "n02", "n03")


def test_any_first_images_hold_the_classes_evenly(data_dir: Path) -> None:
    data = load_data("imagenet", "train", data_dir=data_dir)
    assert data.labels.tolist() == [0, 1, 2, 1, 2, 1]
    assert data.ids.tolist() == [0, 1, 4, 2, 5, 3]


def test_most_decodes_no_others(data_dir: Path) -> None:
    whole = load_data("imagenet", "train", data_dir=data_dir)
    for damaged in ("n02/n02_1.JPEG", "n02/n02_2.JPEG", "n03/n03_1.JPEG"):
        (data_dir / "imagenet" / "train" / damaged).write_bytes(b"no picture")
    few = load_data("imagenet", "train", data_dir=data_dir, most=3)
    assert few.ids.tolist() == [0, 1, 4]
    assert torch.equal(few.images, whole.images[:3])
    with pytest.raises(DataError, match=r"n02_1\.JPEG cannot be decoded"):
        load_data("imagenet", "train", data_dir=data_dir, most=4)


def test_the_test_split_is_val(data_dir: Path) -> None:
    assert load_data("imagenet", data_dir=data_dir).split == "val"
    with pytest.raises(DataError, match="Known: test, train, val"):
        load_data("imagenet", "extra", data_dir=data_dir)


def test_the_folder_may_be_called_ilsvrc2012(data_dir: Path) -> None:
    (data_dir / "imagenet").rename(data_dir / "ILSVRC2012")
    assert available("imagenet", data_dir)
    assert len(load_data("imagenet", data_dir=data_dir)) == 3


def test_an_absent_set_says_what_to_unpack_where(tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    assert not available("imagenet", tmp_path)
    with pytest.raises(DataError, match=r"ImageNet \(val\) was not found.*imagenet/val.*ILSVRC2012/val.*unpack"):
        load_data("imagenet", data_dir=tmp_path)


def test_images_that_memory_cannot_hold_are_refused_before_any_is_read(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet, "free_memory", lambda: 4 * 3 * 299 * 299)
    monkeypatch.setattr(imagenet.image_folder, "read_images", None)
    with pytest.raises(DataError, match=r"6 images of 299x299 pixels need 0\.0 GB.*Take fewer.*most"):
        load_data("imagenet", "train", data_dir=data_dir)
    monkeypatch.undo()
    monkeypatch.setattr(imagenet, "free_memory", lambda: 4 * 3 * 299 * 299)
    assert len(load_data("imagenet", "train", data_dir=data_dir, most=4)) == 4


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says how much memory is free")
def test_free_memory_is_some_of_the_machine_s() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < free_memory() < 1024 * int(total.split()[1])


def test_real_images_in_the_published_layout(tmp_path: Path) -> None:
    samples = sorted(Path(os.environ.get("UNMASK_DATA", "."), "samples").glob("imagenet_*.[jJ]*"))
    if not samples:
        pytest.skip("no real images: UNMASK_DATA holds no samples of ImageNet")
    for path in samples:
        folder = tmp_path / "imagenet" / "val" / f"class-{int(path.stem.split('_')[2]):04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.stem}.JPEG").symlink_to(path.resolve())
    data = load_data("imagenet-224", data_dir=tmp_path)
    labels = sorted({int(path.stem.split("_")[2]) for path in samples})
    assert [int(name.removeprefix("class-")) for name in data.classes] == labels
    assert len(data) == len(samples)
    spread = data.pixels().std((1, 2, 3))
    assert spread.min() > 0.05, "photographs are not flat"
