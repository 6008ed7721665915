"""Writing files so that they are there whole or not at all, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised while writing `path` into an OutputError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "Free some space and run the same command again: all that was written before is kept."
        else:
            advice = "Give a folder that exists or can be made, with write permission."
        raise OutputError(f"Cannot write {path}: {error.strerror or error}. {advice}") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raises OutputError where that cannot be done."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def draft_of(path: Path) -> Path:
    """Return the name under which `path` is written before the rename."""
    return path.with_name(f".{path.name}.tmp")


def write_atomic(path: Path, payload: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut; raises OutputError."""
    draft = draft_of(path)
    with writing(path):
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                write_all(descriptor, payload)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file if it is there; raises OutputError."""
    with writing(path):
        path.unlink(missing_ok=True)


def write_all(descriptor: int, payload: bytes) -> None:
    """Write every byte of the payload to an open file."""
    rest = memoryview(payload)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
