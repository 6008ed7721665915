"""Zip archives read member by member: nothing is unpacked, and what could harm or mislead is refused."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unmask.errors import DataError

_MEMBER_BYTES = 16 * 2**20
_DRIVE = re.compile(r"[A-Za-z]:")
_UNREADABLE = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ZipReader:
    """An open zip whose members are named relative to its top folder."""

    path: Path
    members: Mapping[str, zipfile.ZipInfo]
    _file: zipfile.ZipFile

    def read(self, name: str) -> bytes:
        """Return the content of a member; raises `DataError` if it is missing, damaged or larger than 16 MB."""
        if name not in self.members:
            raise self.error(f"it lacks {name}")
        info = self.members[name]
        if info.file_size > _MEMBER_BYTES:
            raise self.error(f"{name} claims {info.file_size} bytes, more than {_MEMBER_BYTES}")
        try:
            return self._file.read(info)
        except _UNREADABLE as problem:
            raise self.error(f"{name} cannot be read ({problem})") from problem

    def lines(self, name: str) -> list[str]:
        """Return the lines of a UTF-8 member without the empty ones; raises `DataError` as `read` does."""
        try:
            text = self.read(name).decode("utf-8")
        except UnicodeDecodeError as problem:
            raise self.error(f"{name} is not UTF-8 text ({problem})") from problem
        return [line for line in text.splitlines() if line.strip()]

    def error(self, reason: str) -> DataError:
        """Return the error that names this file and why it cannot be used."""
        return _unusable(self.path, reason)


@contextmanager
def open_zip(path: Path, marker: str) -> Iterator[ZipReader]:
    """Open a zip whose top folder is the one that holds `marker`; raises `DataError` for an unsafe or foreign zip."""
    try:
        file = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as problem:
        raise _unusable(path, f"it cannot be opened ({problem})") from problem
    with file:
        yield ZipReader(path, _members(path, file.infolist(), marker), file)


def _members(path: Path, infos: list[zipfile.ZipInfo], marker: str) -> dict[str, zipfile.ZipInfo]:
    unsafe = [info.filename for info in infos if _escapes(info.filename)]
    if unsafe:
        raise _unusable(path, f"the member {unsafe[0]!r} points outside the archive")
    tops = [info.filename.removesuffix(marker) for info in infos if PurePosixPath(info.filename).name == marker]
    if len(tops) != 1:
        raise _unusable(path, f"it holds {marker} {len(tops)} times, expected once")
    return {info.filename.removeprefix(tops[0]): info for info in infos if info.filename.startswith(tops[0])}


def _escapes(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ".." in name.split("/") or _DRIVE.match(name) is not None


def _unusable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be used: {reason}. Give an intact copy of the official archive.")
