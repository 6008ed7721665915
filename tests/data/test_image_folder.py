from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from unmask.data import image_folder, load_data
from unmask.errors import DataError


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return image


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def test_labels_follow_the_sorted_folders_and_ids_the_sorted_files(tmp_path: Path) -> None:
    names = ["dog/b.png", "cat/2.png", "dog/a.png", "cat/10.png"]
    pictures = {name: save(picture(6, 5, seed), tmp_path / name) for seed, name in enumerate(names)}
    data = load_data(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.ids.tolist() == [0, 1, 2, 3]
    expected = np.stack([as_array(pictures[name]) for name in sorted(names)])
    assert np.array_equal(data.images.numpy(), expected)
    assert (data.name, data.split, data.scale, data.input_shape) == (tmp_path.name, "all", 255, (3, 5, 6))


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    colour = picture(4, 4)
    converted = {
        mode: save(colour.convert(mode), tmp_path / "class" / f"{mode}.png") for mode in ("L", "P", "RGBA", "1")
    }
    data = load_data(tmp_path)
    expected = np.stack([as_array(converted[mode]) for mode in sorted(converted)])
    assert np.array_equal(data.images.numpy(), expected)


def test_splits_are_folders_of_class_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(picture(4, 4), tmp_path / split / "cat" / "0.png")
    save(picture(4, 4, 1), tmp_path / "val" / "dog" / "0.png")
    assert (load_data(tmp_path, "val").split, len(load_data(tmp_path, "val"))) == ("val", 2)
    assert len(load_data(tmp_path, "train")) == 1
    assert load_data(tmp_path / "val").split == "all"
    with pytest.raises(DataError, match=r"no split 'test'.*Known: train, val"):
        load_data(tmp_path, "test")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    save(picture(4, 4), tmp_path / "test" / "0.png")
    save(picture(4, 4), tmp_path / "train" / "0.png")
    data = load_data(tmp_path, "train")
    assert (data.classes, data.split, len(data)) == (("test", "train"), "all", 2)


def test_unequal_sizes_are_named(tmp_path: Path) -> None:
    save(picture(6, 5), tmp_path / "cat" / "0.png")
    save(picture(7, 9), tmp_path / "dog" / "0.png")
    with pytest.raises(DataError, match=r"cat/0\.png is 6x5.*dog/0\.png is 7x9.*image_size"):
        load_data(tmp_path)


def test_image_size_resizes_and_crops_as_torchvision_does(tmp_path: Path) -> None:
    sizes = [(40, 30), (25, 61), (8, 8), (10, 9)]
    pictures = [save(picture(*size), tmp_path / "cat" / f"{number}.png") for number, size in enumerate(sizes)]
    reference = transforms.Compose([transforms.Resize(10), transforms.CenterCrop(10), transforms.PILToTensor()])
    data = load_data(tmp_path, image_size=10)
    assert data.input_shape == (3, 10, 10)
    assert torch.equal(data.images, torch.stack([reference(each) for each in pictures]))


@pytest.mark.parametrize("size", [0, -3])
def test_a_senseless_image_size_is_refused(tmp_path: Path, size: int) -> None:
    save(picture(4, 4), tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match=f"image_size is {size}"):
        load_data(tmp_path, image_size=size)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    save(picture(40, 40), tmp_path / "cat" / "0.png")
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    for content in (b"not an image", whole[: len(whole) // 2], b""):
        (tmp_path / "cat" / "1.png").write_bytes(content)
        with pytest.raises(DataError, match=r"cat/1\.png cannot be decoded as an image"):
            load_data(tmp_path)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    save(deep, tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match=r"0\.png has more than 8 bits"):
        load_data(tmp_path)


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a folder of images.*one folder for each class"):
        load_data(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"not a folder of images.*cat"):
        load_data(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent cannot be read.*Give an existing folder"):
        image_folder.load(tmp_path / "absent", "test")
