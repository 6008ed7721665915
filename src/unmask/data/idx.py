"""MNIST and Fashion-MNIST from their idx files, plain or gzipped."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask.data.dataset import DataSet
from unmask.data.sources import absent, check_split, fetching
from unmask.errors import DataError

SPLITS = ("train", "test")
_UINT8 = 8  # the idx type code of unsigned bytes


@dataclass(frozen=True)
class _Family:
    title: str
    folder: str  # also the name of torchvision's class
    classes: tuple[str, ...]


_FAMILIES = {
    "mnist": _Family("MNIST", "MNIST", tuple(str(digit) for digit in range(10))),
    "fashion-mnist": _Family(
        "Fashion-MNIST",
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


def load(name: str, split: str, data_dir: Path, *, download: bool = False) -> DataSet:
    """Return `mnist` or `fashion-mnist` as (N, 1, 28, 28) uint8 from `<data_dir>/MNIST/raw` or `.../FashionMNIST/raw`.

    Nothing is written unless files are missing and `download` is set; torchvision then fetches them and checks their
    MD5. Raises `DataError` for an unknown split and for absent or damaged files, `OutputError` where the download
    cannot be kept. Source: LeCun et al., 1998; Xiao et al., arXiv:1708.07747.
    """
    family = _FAMILIES[name]
    check_split(name, split, SPLITS)
    wanted = _stems(split, data_dir / family.folder / "raw")
    if download and not all(_find(stem) for stem in wanted):
        _fetch(family, data_dir)
    found = [_find(stem) for stem in wanted]
    missing = [path for stem, path in zip(wanted, found, strict=True) if path is None for path in _variants(stem)]
    if missing:
        raise absent(f"{family.title} ({split})", missing)
    images, labels = (_read(path, dims) for path, dims in zip(found, (3, 1), strict=True) if path)
    return DataSet(
        name=name,
        split=split,
        images=images.unsqueeze(1),
        labels=labels.long(),
        ids=torch.arange(len(images)),
        scale=255,
        classes=family.classes,
    )


def available(name: str, data_dir: Path) -> bool:
    """Return whether the files of both splits lie in `data_dir`."""
    raw = data_dir / _FAMILIES[name].folder / "raw"
    return all(_find(stem) for split in SPLITS for stem in _stems(split, raw))


def _stems(split: str, raw: Path) -> tuple[Path, Path]:
    prefix = "train" if split == "train" else "t10k"
    return raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"


def _variants(stem: Path) -> tuple[Path, Path]:
    return stem, stem.with_name(stem.name + ".gz")


def _find(stem: Path) -> Path | None:
    return next((path for path in _variants(stem) if path.is_file()), None)


def _fetch(family: _Family, data_dir: Path) -> None:
    # Imported late: only a download needs it.
    from torchvision import datasets

    with fetching(family.title, data_dir / family.folder, download=True):
        getattr(datasets, family.folder)(str(data_dir), download=True)


def _read(path: Path, dims: int) -> Tensor:
    raw = _bytes(path)
    start = 4 + 4 * dims
    if len(raw) < start or raw[:4] != bytes((0, 0, _UINT8, dims)):
        raise _damaged(path, f"it begins with the bytes {raw[:4].hex(' ')}, expected 00 00 {_UINT8:02x} {dims:02x}")
    shape = struct.unpack(f">{dims}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise _damaged(path, f"it holds {len(raw) - start} values, its header says {math.prod(shape)} = {shape}")
    # A copy, because torch warns about memory that it may not write.
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as problem:
        raise _damaged(path, str(problem)) from problem


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a usable idx file: {reason}. Delete it and pass --download, or put a sound copy there."
    )
