"""A user's own arrays in a .npz file."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unmask.data.dataset import DataSet
from unmask.errors import DataError

_WHOLE = "all"
_CHANNELS = (1, 3)
_LAYOUTS = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2)}
_MOST_CLASSES = 100_000
_FORM = "uint8 from 0 to 255, or floats from 0 to 1"
# What numpy raises for archives that are damaged, hold pickled objects, or announce more than fits into memory.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

_Array = NDArray[Any]


def load(path: Path, split: str) -> DataSet:
    """Return the images `x_<split>` and labels `y_<split>` of the file, or `x` and `y` (split "all") without splits.

    Images: uint8, or floats in [0, 1], as (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3; a string `layout`
    ("NHWC" or "NCHW") settles other cases. Labels: integers (N,) or (N, 1). `classes`: optional strings. Ids are the
    rows. Other keys are ignored and nothing is unpickled. Raises `DataError` that names the key and what was expected.
    """
    with _open(path) as archive:
        suffix, shown = _suffix(archive, split)
        images = _images(archive, f"x{suffix}")
        labels = _labels(archive, f"y{suffix}", len(images))
        classes = _classes(archive, labels)
    return DataSet(
        name=path.stem,
        split=shown,
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        ids=torch.arange(len(images)),
        scale=255 if images.dtype == np.uint8 else 1,
        classes=classes,
    )


@dataclass(frozen=True)
class _Archive:
    path: Path
    arrays: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> _Array:
        try:
            array = self.arrays[key]
        except _UNREADABLE as problem:
            raise DataError(
                f"{self.at(key)} cannot be read ({problem}). Save it as a plain array of numbers or strings: Python "
                "objects are not loaded, because unpickling them could run code."
            ) from problem
        # numpy hands out the raw bytes of a member that is no array.
        if not isinstance(array, np.ndarray):
            raise DataError(f"{self.at(key)} is not an array. Write the file with numpy.savez.")
        return array

    def at(self, key: str) -> str:
        return f"{self.path}, key '{key}'"


@contextmanager
def _open(path: Path) -> Iterator[_Archive]:
    with ExitStack() as opened:
        try:
            # Opened here, because numpy forgets to close a file that it cannot read.
            archive = np.load(opened.enter_context(path.open("rb")), allow_pickle=False)
        except _UNREADABLE as problem:
            raise DataError(f"{path} is not a readable .npz file ({problem}). Write it with numpy.savez.") from problem
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} holds a single array. Write both with numpy.savez(path, x=images, y=labels).")
        yield _Archive(path, opened.enter_context(archive))


def _suffix(archive: _Archive, split: str) -> tuple[str, str]:
    for suffix, shown in ((f"_{split}", split), ("", _WHOLE)):
        if f"x{suffix}" in archive and f"y{suffix}" in archive:
            return suffix, shown
    raise DataError(
        f"{archive.path} holds the keys {', '.join(sorted(archive.arrays)) or '(none)'}. "
        f"Expected x_{split} and y_{split}, or x and y."
    )


def _images(archive: _Archive, key: str) -> _Array:
    images = _channels_first(archive, key)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise DataError(f"{archive.at(key)} has type {images.dtype}. Expected {_FORM}.")
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(images, dtype=np.float32)
    low, high = (floats.min(), floats.max()) if floats.size else (0, 0)
    # Stated as what must hold, so that NaN fails too.
    if not 0 <= low <= high <= 1:
        raise DataError(
            f"{archive.at(key)} holds floats from {low:g} to {high:g}. Expected {_FORM}: divide 0-255 values by 255, "
            "undo a normalisation (it belongs inside the model), and replace NaN."
        )
    return floats


def _channels_first(archive: _Archive, key: str) -> _Array:
    images = archive[key]
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(
            f"{archive.at(key)} has shape {images.shape}. Expected (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    return images.transpose(_LAYOUTS[_layout(archive, key, images.shape)])


def _layout(archive: _Archive, key: str, shape: tuple[int, ...]) -> str:
    if "layout" in archive:
        layout = str(archive["layout"])
        if layout not in _LAYOUTS:
            raise DataError(f"{archive.at('layout')} is '{layout}'. Expected 'NHWC' or 'NCHW'.")
        return layout
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first == last:
        raise DataError(
            f"{archive.at(key)} has shape {shape}, which does not say where the channels are. Expected 1 or 3 of them "
            "either first or last; add a string 'layout' to the file, 'NHWC' or 'NCHW', to settle it."
        )
    return "NCHW" if first else "NHWC"


def _labels(archive: _Archive, key: str, count: int) -> NDArray[np.int64]:
    labels = archive[key]
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{archive.at(key)} has type {labels.dtype} and shape {labels.shape}. Expected integers of shape "
            f"({count},), one class number for each image."
        )
    return labels.reshape(count).astype(np.int64)


def _classes(archive: _Archive, labels: NDArray[np.int64]) -> tuple[str, ...]:
    if "classes" not in archive:
        return tuple(str(number) for number in range(_count(archive, labels)))
    names = archive["classes"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(
            f"{archive.at('classes')} has type {names.dtype} and shape {names.shape}. Expected strings of shape (K,), "
            "as numpy.array(['cat', 'dog']) makes them."
        )
    return tuple(str(name) for name in names)


def _count(archive: _Archive, labels: NDArray[np.int64]) -> int:
    # Over all splits, because a small test split may lack the last class.
    splits = [key.removeprefix("x_") for key in archive.arrays if key.startswith("x_")]
    others = [archive[f"y_{split}"] for split in splits if f"y_{split}" in archive]
    count = 1 + max(int(each.max(initial=0)) for each in (labels, *others) if each.dtype.kind in "iu")
    if count > _MOST_CLASSES:
        raise DataError(
            f"{archive.path} holds the label {count - 1}. Expected class numbers from 0 to {_MOST_CLASSES - 1}."
        )
    return count
