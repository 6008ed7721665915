"""CIFAR-10 and CIFAR-100 from the official Python archives, through torchvision and its checksums."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unmask.data.dataset import DataSet
from unmask.data.sources import absent, check_split, fetching

SPLITS = ("train", "test")


@dataclass(frozen=True)
class _Family:
    title: str
    torchvision: str  # the name of torchvision's class
    folder: str


_FAMILIES = {
    "cifar10": _Family("CIFAR-10", "CIFAR10", "cifar-10-batches-py"),
    "cifar100": _Family("CIFAR-100", "CIFAR100", "cifar-100-python"),
}


def load(name: str, split: str, data_dir: Path, *, download: bool = False) -> DataSet:
    """Return `cifar10` or `cifar100` (fine labels) as (N, 3, 32, 32) uint8 from `<data_dir>/<name>` or `<data_dir>`.

    Every file is checked against its MD5. Raises `DataError` for an unknown split and for absent or damaged files,
    `OutputError` where a download cannot be kept. Source: Krizhevsky, Learning multiple layers of features, 2009.
    """
    family = _FAMILIES[name]
    check_split(name, split, SPLITS)
    root = _root(name, data_dir)
    if root is None and not download:
        raise absent(f"{family.title} ({split})", _folders(name, data_dir))
    images, labels, classes = _read(family, root or data_dir / name, split, download)
    return DataSet(
        name=name,
        split=split,
        images=images,
        labels=labels,
        ids=torch.arange(len(images)),
        scale=255,
        classes=classes,
    )


def available(name: str, data_dir: Path) -> bool:
    """Return whether the unpacked archive lies in `data_dir`."""
    return _root(name, data_dir) is not None


def _folders(name: str, data_dir: Path) -> tuple[Path, Path]:
    folder = _FAMILIES[name].folder
    return data_dir / name / folder, data_dir / folder


def _root(name: str, data_dir: Path) -> Path | None:
    return next((folder.parent for folder in _folders(name, data_dir) if folder.is_dir()), None)


def _read(
    family: _Family, root: Path, split: str, download: bool
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    # Imported late: only this source needs it.
    from torchvision import datasets

    with fetching(family.title, root, download=download), warnings.catch_warnings():
        # The official pickles spell numpy types in an old way that numpy 2.4.0 to 2.4.4 read but warn about.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        raw = getattr(datasets, family.torchvision)(str(root), train=split == "train", download=download)
    images = torch.from_numpy(np.ascontiguousarray(raw.data.transpose(0, 3, 1, 2)))
    return images, torch.tensor(raw.targets, dtype=torch.int64), tuple(raw.classes)
