"""The data sets by name, and the one function that loads any of them or a user's own."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from unmask.data import cifar, digits, idx, image_folder, imagenet, npz, svhn, tiny_imagenet
from unmask.data.dataset import DataSet
from unmask.errors import DataError, unknown


class _Load(Protocol):
    def __call__(self, split: str, data_dir: Path, *, download: bool) -> DataSet: ...


@dataclass(frozen=True)
class _Source:
    summary: str
    load: _Load
    available: Callable[[Path], bool]


def _load_digits(split: str, data_dir: Path, *, download: bool) -> DataSet:
    return digits.load(split)


def _load_tiny_imagenet(split: str, data_dir: Path, *, download: bool) -> DataSet:
    return tiny_imagenet.load(split, data_dir)


def _idx(name: str, summary: str) -> _Source:
    return _Source(summary, partial(idx.load, name), partial(idx.available, name))


def _imagenet(name: str, summary: str) -> _Source:
    def load(split: str, data_dir: Path, *, download: bool) -> DataSet:
        return imagenet.load(name, split, data_dir)

    return _Source(summary, load, imagenet.available)


def _cifar(name: str, summary: str) -> _Source:
    return _Source(summary, partial(cifar.load, name), partial(cifar.available, name))


_SOURCES = {
    "digits": _Source("1,797 handwritten digits, 1x8x8, 10 classes; built in", _load_digits, lambda data_dir: True),
    "mnist": _idx("mnist", "70,000 handwritten digits, 1x28x28, 10 classes"),
    "fashion-mnist": _idx("fashion-mnist", "70,000 articles of clothing, 1x28x28, 10 classes"),
    "cifar10": _cifar("cifar10", "60,000 photographs, 3x32x32, 10 classes"),
    "cifar100": _cifar("cifar100", "60,000 photographs, 3x32x32, 100 classes"),
    "svhn": _Source("99,289 house number digits, 3x32x32, 10 classes", svhn.load, svhn.available),
    "tiny-imagenet": _Source(
        "110,000 photographs, 3x64x64, 200 classes; prepared once from the official zip",
        _load_tiny_imagenet,
        tiny_imagenet.available,
    ),
    "imagenet": _imagenet("imagenet", "1,331,167 photographs, 3x299x299, 1,000 classes; from unpacked folders"),
    "imagenet-224": _imagenet("imagenet-224", "the same, 3x224x224"),
}

DATA_SETS: dict[str, str] = {name: source.summary for name, source in _SOURCES.items()}


def default_data_dir() -> Path:
    """Return the folder that data sets are looked for in: $UNMASK_DATA, else ~/.cache/unmask."""
    return Path(os.environ.get("UNMASK_DATA") or "~/.cache/unmask").expanduser()


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Return whether the named data set lies in `data_dir`, ready to load; raises `DataError` for an unknown name."""
    if name not in _SOURCES:
        raise DataError(unknown("data set", name, _SOURCES))
    return _SOURCES[name].available(_folder(data_dir))


def load_data(
    spec: str | os.PathLike[str],
    split: str = "test",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    most: int | None = None,
) -> DataSet:
    """Return one split of a data set: a name of `DATA_SETS`, the path of a .npz file, or of a folder of class folders.

    `data_dir` is where named sets lie (default: $UNMASK_DATA, else ~/.cache/unmask); nothing is fetched without
    `download`. `image_size` resizes and centre-crops the images of a folder. `most` returns no more than the first so
    many examples (of ImageNet no others are decoded). Raises `DataError` for an unknown name or split and for data that
    are absent, damaged or of another form, `OutputError` where a download cannot be kept.
    """
    if most is not None and most < 1:
        raise DataError(f"most is {most}. Give how many examples to load at most, 1 or more, or leave it out.")
    spec = os.fspath(spec)
    path = Path(spec).expanduser()
    if spec and spec not in _SOURCES and path.is_dir():
        data = image_folder.load(path, split, image_size=image_size)
    elif image_size is not None:
        raise DataError(f"image_size was given with '{spec}'. It applies to folders of images only: leave it out.")
    elif spec in imagenet.SIDES:
        data = imagenet.load(spec, split, _folder(data_dir), most=most)
    elif spec in _SOURCES:
        data = _SOURCES[spec].load(split, _folder(data_dir), download=download)
    else:
        data = npz.load(_npz_path(spec, path), split)
    return data if most is None else data.first(min(most, len(data)))


def _folder(data_dir: str | os.PathLike[str] | None) -> Path:
    return default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def _npz_path(spec: str, path: Path) -> Path:
    if path.suffix == ".npz" and path.is_file():
        return path
    if path.exists():
        raise DataError(
            f"'{spec}' is neither a .npz file nor a folder. Give one of them, or a name: {', '.join(_SOURCES)}."
        )
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"'{spec}' does not exist. Give the path of a .npz file or of a folder of class folders.")
    raise DataError(
        f"{unknown('data set', spec, _SOURCES)} A path of a .npz file or of a folder of class folders works too."
    )
