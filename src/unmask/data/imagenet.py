"""ImageNet (ILSVRC 2012) from the folders that its archives unpack to, as one square of pixels per image."""

from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch

from unmask.data import image_folder
from unmask.data.dataset import DataSet
from unmask.data.sources import absent, check_split
from unmask.environment import free_memory
from unmask.errors import DataError

SPLITS = ("train", "val")
FOLDERS = ("imagenet", "ILSVRC2012")
SIDES = {"imagenet": 299, "imagenet-224": 224}
GIGABYTE = 10**9


def load(name: str, split: str, data_dir: Path, *, most: int | None = None) -> DataSet:
    """Return images (N, 3, S, S) uint8 of `<data_dir>/imagenet/{train,val}/<class>/*`; "test" gives val.

    `imagenet` has S = 299, for Inception v3, `imagenet-224` 224, for residual networks: the shorter side is resized
    (bilinear) and the centre cropped. The folder may be called ILSVRC2012 too. Labels follow the sorted class folders,
    ids the sorted files. The first image of every class comes first, then the second of every class, so that any first
    images hold the classes evenly; `most` decodes no more than so many of them. Raises `DataError` for an unknown
    split, absent folders, unreadable files, and for images that memory cannot hold. Source: Russakovsky et al.,
    ImageNet large scale visual recognition challenge, 2015.
    """
    check_split(name, split, (*SPLITS, "test"))
    shown, side = "val" if split == "test" else split, SIDES[name]
    root = _root(shown, data_dir)
    if root is None:
        remedy = "unpack the archives there, with a folder for each class in train and in val"
        raise absent(f"ImageNet ({shown})", [data_dir / folder / shown for folder in FOLDERS], remedy)
    classes, found = image_folder.listing(root)
    chosen = _evenly(found)[:most]
    _check_memory(shown, len(chosen), side)
    return DataSet(
        name=name,
        split=shown,
        images=image_folder.read_images([found[row][0] for row in chosen], side),
        labels=torch.tensor([found[row][1] for row in chosen]),
        ids=torch.tensor(chosen),
        scale=255,
        classes=classes,
    )


def available(data_dir: Path) -> bool:
    """Return whether both splits lie in `data_dir` as folders of class folders."""
    return all(_root(split, data_dir) is not None for split in SPLITS)


def _root(split: str, data_dir: Path) -> Path | None:
    roots = (data_dir / folder / split for folder in FOLDERS)
    return next((root for root in roots if root.is_dir() and any(sub.is_dir() for sub in root.iterdir())), None)


def _evenly(found: list[tuple[Path, int]]) -> list[int]:
    """Return the rows of a listing, ordered by their number within their class."""
    rows = enumerate(label for _, label in found)
    numbered = [(number, row) for _, group in groupby(rows, itemgetter(1)) for number, (row, _) in enumerate(group)]
    return [row for _, row in sorted(numbered)]


def _check_memory(split: str, count: int, side: int) -> None:
    needed, free = count * 3 * side * side, free_memory()
    if free is not None and needed > free:
        raise DataError(
            f"ImageNet ({split}): {count:,} images of {side}x{side} pixels need {needed / GIGABYTE:,.1f} GB of memory, "
            f"and {free / GIGABYTE:,.1f} GB are free. Take fewer of them (`most` of load_data, `images` of a recipe), "
            "or a machine with more memory."
        )
