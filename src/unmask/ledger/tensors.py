"""The arrays of a run directory: the audited images and the adversarial ones, as safetensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unmask.errors import LedgerError
from unmask.ledger.schema import Spec

Ids = npt.NDArray[np.int64]
Images = npt.NDArray[np.float32]


def shard_name(round: int, first: int) -> str:
    """Return the file name of the adversarial images of the batch of `round` that begins with example `first`."""
    return f"{round}-{first}.safetensors"


def as_pixels(images: npt.NDArray[Any]) -> Images:
    """Return images as float32: uint8 ones divided by 255, others as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def encode_inputs(ids: Ids, labels: Ids, images: Images) -> bytes:
    """Return the safetensors file of the audited examples; images become uint8 where that loses not one bit."""
    with np.errstate(invalid="ignore"):
        rounded = np.clip(np.rint(images * np.float32(255)), 0, 255).astype(np.uint8)
    stored: npt.NDArray[Any] = rounded if np.array_equal(as_pixels(rounded), images) else images
    return encode_arrays(ids=ids, labels=labels, images=stored)


def encode_arrays(**arrays: npt.NDArray[Any]) -> bytes:
    """Return arrays as the bytes of a safetensors file."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as source:
            yield source
    except FileNotFoundError:
        raise LedgerError(f"{path} is missing. Restore it, or start again in another --run-dir.") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise LedgerError(f"Cannot read {path}: {str(error)[:300]}. Restore it from a copy.") from error


def _array(path: Path, source: Any, name: str, shape: Sequence[int | None], *types: str) -> npt.NDArray[Any]:
    """Read one array; None in `shape` stands for any length. Raises LedgerError naming what differs."""
    if name not in source.keys():  # noqa: SIM118 (safe_open is no mapping)
        raise LedgerError(f"{path} holds no array '{name}'.")
    view = source.get_slice(name)
    found, kind = tuple(view.get_shape()), view.get_dtype()
    fits = len(found) == len(shape) and all(b is None or a == b for a, b in zip(found, shape, strict=True))
    if not fits or kind not in types:
        wanted = "x".join("?" if length is None else str(length) for length in shape)
        raise LedgerError(f"{path}: '{name}' is {kind} {found}, expected {' or '.join(types)} of shape {wanted}.")
    return np.asarray(source.get_tensor(name))


def read_labels(path: Path, spec: Spec) -> tuple[Ids, Ids]:
    """Return ids (N,) and labels (N,) of a run; raises LedgerError."""
    with _opened(path) as source:
        ids = _array(path, source, "ids", (spec.data.n,), "I64")
        labels = _array(path, source, "labels", (spec.data.n,), "I64")
    if len(np.unique(ids)) != len(ids):
        raise LedgerError(f"{path}: an id occurs twice.")
    return ids, labels


def read_images(path: Path, spec: Spec) -> Images:
    """Return the audited images (N, C, H, W) as float32; raises LedgerError."""
    with _opened(path) as source:
        return as_pixels(_array(path, source, "images", (spec.data.n, *spec.data.input_shape), "U8", "F32"))


def read_kept_ids(path: Path) -> Ids:
    """Return the ids (M,) of one file of adversarial images; raises LedgerError."""
    with _opened(path) as source:
        return _array(path, source, "ids", (None,), "I64")


def read_kept(path: Path, shape: Sequence[int]) -> tuple[Ids, Images]:
    """Return ids (M,) and images (M, C, H, W) of one file of adversarial images; raises LedgerError."""
    with _opened(path) as source:
        ids = _array(path, source, "ids", (None,), "I64")
        return ids, _array(path, source, "x_adv", (len(ids), *shape), "F32")


class KeptIndex:
    """Where the latest adversarial image of each example lies: file and row."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._place: dict[int, tuple[Path, int]] = {}

    def add(self, path: Path, ids: Iterable[int]) -> None:
        """Note the rows of a file that was written after all those noted before."""
        for row, example in enumerate(ids):
            self._place[int(example)] = (path, row)

    def read(self) -> tuple[Ids, Images]:
        """Return ids (M,) in ascending order and the latest image of each (M, C, H, W); raises LedgerError."""
        ids = np.array(sorted(self._place), dtype=np.int64)
        images = np.empty((len(ids), *self._shape), dtype=np.float32)
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for target, example in enumerate(ids.tolist()):
            path, row = self._place[example]
            wanted.setdefault(path, []).append((target, row))
        for path, pairs in wanted.items():
            _, found = read_kept(path, self._shape)
            targets, rows = zip(*pairs, strict=True)
            if max(rows) >= len(found):
                raise LedgerError(f"{path} holds fewer images than when it was opened. Restore it from a copy.")
            images[list(targets)] = found[list(rows)]
        return ids, images
