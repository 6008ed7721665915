"""A user's own images as files: one folder per class, as torchvision's ImageFolder reads them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from unmask.data.dataset import DataSet
from unmask.data.pictures import as_tensor, read_rgb
from unmask.errors import DataError, unknown

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "extra"})
_WHOLE = "all"


def load(path: Path, split: str, *, image_size: int | None = None) -> DataSet:
    """Return the RGB images (N, 3, H, W) uint8 of `<path>/<split>/<class>/*`, or of `<path>/<class>/*` without splits.

    Labels follow the sorted class folders, ids the sorted files. `image_size` resizes the shorter side (bilinear) and
    crops the centre square. The split is called "all" where the folder has none. Raises `DataError` for an unknown
    split, a folder without images, unreadable files, and images of different sizes without `image_size`.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}. Give the side of the square crop in pixels, at least 1.")
    root, shown = _root(path, split)
    classes, samples = listing(root)
    return DataSet(
        name=path.resolve().name,
        split=shown,
        images=read_images([file for file, _ in samples], image_size),
        labels=torch.tensor([label for _, label in samples], dtype=torch.int64),
        ids=torch.arange(len(samples)),
        scale=255,
        classes=classes,
    )


def _root(path: Path, split: str) -> tuple[Path, str]:
    try:
        splits = [sub.name for sub in path.iterdir() if sub.name in _SPLIT_NAMES and _holds_folders(sub)]
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem}). Give an existing folder that you may read.") from problem
    if not splits:
        return path, _WHOLE
    if split not in splits:
        raise DataError(f"{path}: {unknown('split', split, splits)}")
    return path / split, split


def _holds_folders(path: Path) -> bool:
    # A class may be called "test" too, but its folder holds images.
    return path.is_dir() and any(sub.is_dir() for sub in path.iterdir())


def listing(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Return the classes of `<root>/<class>/*`, sorted, and every image file with its label, sorted; `DataError`."""
    # Imported late: only this source needs it.
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(root))
    except OSError as problem:
        raise DataError(
            f"{root} is not a folder of images ({problem}). Expected one folder for each class with image files in it."
        ) from problem
    return tuple(found.classes), [(Path(file), label) for file, label in found.samples]


def read_images(files: Sequence[Path], image_size: int | None) -> torch.Tensor:
    """Return images (N, 3, H, W) uint8, all of one size, each resized and cropped as `load` says; `DataError`."""
    first = _picture(files[0], image_size)
    images = torch.empty((len(files), 3, first.height, first.width), dtype=torch.uint8)
    for row, file in enumerate(files):
        picture = _picture(file, image_size)
        if picture.size != first.size:
            raise DataError(
                f"Images differ in size (width x height): {files[0]} is {first.width}x{first.height}, "
                f"{file} is {picture.width}x{picture.height}. Make them equal, or pass image_size to resize and "
                "centre-crop them."
            )
        images[row] = as_tensor(picture)
    return images


def _picture(file: Path, image_size: int | None) -> Image.Image:
    picture = read_rgb(file, str(file))
    if image_size is None:
        return picture
    from torchvision.transforms import functional

    square: Image.Image = functional.center_crop(functional.resize(picture, [image_size]), [image_size])
    return square
