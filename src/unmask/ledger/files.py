"""Files of a run directory: atomic writes, the append-only journal file, the lock."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from unmask.errors import LedgerError, OutputError

SPEC = "spec.json"
INPUTS = "inputs.safetensors"
EVENTS = "events.jsonl"
EVENTS_TABLE = "events.parquet"
SHARDS = "adversarial"
ADVERSARIAL = "adversarial.safetensors"
FINDINGS = "findings.json"
RESULT = "result.json"
LOCK = "run.lock"

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised while writing `path` into an OutputError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "Free some space and run the same command again: all that was committed before is kept."
        else:
            advice = "Give a folder that exists or can be made, with write permission, as --run-dir."
        raise OutputError(f"Cannot write {path}: {error.strerror or error}. {advice}") from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raises OutputError where that cannot be done."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def partial(path: Path) -> Path:
    """Return the name under which `path` is written before the rename."""
    return path.with_name(f".{path.name}.tmp")


def write_atomic(path: Path, payload: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut; raises OutputError."""
    draft = partial(path)
    with writing(path):
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                _write_all(descriptor, payload)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file if it is there; raises OutputError."""
    with writing(path):
        path.unlink(missing_ok=True)


def _write_all(descriptor: int, payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """The open `events.jsonl`: everything up to `size` is committed, whatever lies behind it is cut off."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = size

    @classmethod
    def open(cls, path: Path, size: int) -> Self:
        """Open the journal for appending after its first `size` bytes and cut off the rest; raises OutputError."""
        with writing(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            journal = cls(path, descriptor, size)
            try:
                journal._cut()
                os.fsync(descriptor)
                _sync_folder(path.parent)
            except OSError:
                journal.close()
                raise
        return journal

    def append(self, payload: bytes) -> None:
        """Append and sync one batch; where that fails the file is cut back and an OutputError raised."""
        with writing(self._path):
            # An earlier append may have failed, or been interrupted, half-way.
            self._cut()
            try:
                _write_all(self._descriptor, payload)
                os.fsync(self._descriptor)
            except OSError:
                with suppress(OSError):
                    self._cut()
                raise
        self._size += len(payload)

    def _cut(self) -> None:
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class RunLock:
    """An exclusive lock on a run directory, held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, run_dir: Path) -> Self:
        """Lock the run; raises LedgerError where another process (or this one) holds it, OutputError if unwritable."""
        path = run_dir / LOCK
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise LedgerError(
                    f"The run {run_dir} is being written by another process. "
                    "Wait for it to end, or use another --run-dir."
                ) from None
            except OSError:
                os.close(descriptor)
                raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the lock back; the empty lock file stays, as removing it would race with the next opener."""
        os.close(self._descriptor)
