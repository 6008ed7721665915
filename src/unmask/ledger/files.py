"""Files of a run directory: their names, the append-only journal, the lock."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Self

from unmask.errors import LedgerError
from unmask.files import sync_folder, write_all, writing

SPEC = "spec.json"
INPUTS = "inputs.safetensors"
EVENTS = "events.jsonl"
EVENTS_TABLE = "events.parquet"
SHARDS = "adversarial"
ADVERSARIAL = "adversarial.safetensors"
FINDINGS = "findings.json"
RESULT = "result.json"
LOCK = "run.lock"
_JOURNAL = re.compile(r"events(?:-[1-9]\d*)?\.jsonl")


def journal_name(writer: int) -> str:
    """Return the name of the journal of one of the processes that write a run together, numbered from 0."""
    return f"events-{writer}.jsonl" if writer else EVENTS


def journals(run_dir: Path) -> list[Path]:
    """Return the journals of a run that are there, that of the first process first; raises LedgerError."""
    try:
        found = [path for path in run_dir.iterdir() if _JOURNAL.fullmatch(path.name)]
    except OSError as error:
        raise LedgerError(f"Cannot read {run_dir}: {error.strerror or error}.") from error
    return sorted(found, key=lambda path: (len(path.name), path.name))


class Journal:
    """An open journal (`events.jsonl`): everything up to `size` is committed, whatever lies behind it is cut off."""

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
                sync_folder(path.parent)
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
                write_all(self._descriptor, payload)
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
    """An exclusive lock on a file of a run directory, held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Self:
        """Lock a file; raises LedgerError where another process (or this one) holds it, OutputError if unwritable."""
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise LedgerError(
                    f"The run {path.parent} is being written by another process. "
                    "Wait for it to end, or use another --run-dir."
                ) from None
            except OSError:
                os.close(descriptor)
                raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the lock back; the file stays, as removing it would race with the next opener."""
        os.close(self._descriptor)
