"""What the sources share: split names, and the errors for files that are absent, damaged or cannot be fetched."""

import errno
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from safetensors import SafetensorError

from unmask.errors import DataError, OutputError, unknown

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
_WHERE = "name the folder that holds it with --data-dir (data_dir=...) or the environment variable UNMASK_DATA"


def check_split(name: str, split: str, known: Sequence[str]) -> None:
    """Raise `DataError` unless `split` is one of the `known` splits of the data set `name`."""
    if split not in known:
        raise DataError(unknown(f"{name} split", split, known))


def absent(
    title: str, searched: Sequence[Path], remedy: str = "pass --download (download=True) to fetch it"
) -> DataError:
    """Return the error for a data set that lies in none of the `searched` paths."""
    places = ", ".join(str(path) for path in searched)
    return DataError(f"{title} was not found. Looked for {places}. Either {remedy}, or {_WHERE}.")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while files are written to `folder` into `OutputError`."""
    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise _unwritable(folder, problem) from problem


def _unwritable(path: Path, problem: BaseException) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({problem}). Free space there, or choose a folder you may write to with --data-dir "
        "(data_dir=...) or the environment variable UNMASK_DATA."
    )


@contextmanager
def fetching(title: str, root: Path, *, download: bool) -> Iterator[None]:
    """Turn what goes wrong while torchvision checks, reads or (`download`) fetches files in `root` into our errors."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error) as problem:
        if download and isinstance(problem, OSError) and problem.errno in _UNWRITABLE:
            raise _unwritable(root, problem) from problem
        raise DataError(
            f"{title} could not be fetched to or read from {root} ({' '.join(str(problem).split())}). Check the "
            f"network connection, delete incomplete files and pass --download (download=True), or {_WHERE}."
        ) from problem
