"""Street View House Numbers (cropped digits) from the official .mat files, through torchvision and its checksums."""

from pathlib import Path

import numpy as np
import torch

from unmask.data.dataset import DataSet
from unmask.data.sources import absent, check_split, fetching

SPLITS = ("train", "test", "extra")


def load(split: str, data_dir: Path, *, download: bool = False) -> DataSet:
    """Return SVHN as (N, 3, 32, 32) uint8 from `<data_dir>/svhn` or `<data_dir>`; the digit 0 has label 0.

    The file is checked against its MD5. Raises `DataError` for an unknown split and for an absent or damaged file,
    `OutputError` where a download cannot be kept. Source: Netzer et al., Reading digits in natural images, 2011.
    """
    check_split("svhn", split, SPLITS)
    found = _find(split, data_dir)
    if found is None and not download:
        raise absent(f"SVHN ({split})", _places(split, data_dir))
    images, labels = _read(found.parent if found else data_dir / "svhn", split, download)
    return DataSet(
        name="svhn",
        split=split,
        images=images,
        labels=labels,
        ids=torch.arange(len(images)),
        scale=255,
        classes=tuple(str(digit) for digit in range(10)),
    )


def available(data_dir: Path) -> bool:
    """Return whether the files of the train and the test split lie in `data_dir`."""
    return all(_find(split, data_dir) for split in ("train", "test"))


def _places(split: str, data_dir: Path) -> tuple[Path, Path]:
    name = f"{split}_32x32.mat"
    return data_dir / "svhn" / name, data_dir / name


def _find(split: str, data_dir: Path) -> Path | None:
    return next((path for path in _places(split, data_dir) if path.is_file()), None)


def _read(root: Path, split: str, download: bool) -> tuple[torch.Tensor, torch.Tensor]:
    # Imported late: only this source needs it.
    from torchvision.datasets import SVHN

    with fetching("SVHN", root, download=download):
        raw = SVHN(str(root), split=split, download=download)
    return torch.from_numpy(np.ascontiguousarray(raw.data)), torch.from_numpy(raw.labels)
