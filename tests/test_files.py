"""Atomic writing: a file is there whole or not at all, and failures say what to do."""

import errno
import os
from pathlib import Path

import pytest

from unmask import files
from unmask.errors import OutputError
from unmask.files import draft_of, make_folder, remove, sync_folder, write_all, write_atomic, writing


def test_write_atomic_writes_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_atomic(path, b"first")
    write_atomic(path, b"second, and longer")
    assert path.read_bytes() == b"second, and longer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_draft_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    draft_of(path).write_bytes(b"torn, and longer than what follows")
    write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert not draft_of(path).exists()


def test_a_draft_lies_beside_its_file_and_is_hidden() -> None:
    assert draft_of(Path("a/b.json")) == Path("a/.b.json.tmp")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_file_and_says_so(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    write_atomic(path, b"old")
    real_write = os.write
    written = 0

    def fills_up(descriptor: int, payload: memoryview) -> int:
        nonlocal written
        if written:
            raise OSError(code, os.strerror(code))
        written = real_write(descriptor, payload[:3])
        return written

    monkeypatch.setattr(files.os, "write", fills_up)
    with pytest.raises(OutputError, match=r"weights: .*Free some space and run the same command again"):
        write_atomic(path, b"new and larger")
    assert written == 3
    assert path.read_bytes() == b"old"
    assert not draft_of(path).exists()


def test_a_real_full_device_is_an_output_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OutputError, match="Free some space"):  # noqa: SIM117
        with writing(Path("/dev/full")):
            write_all(full.fileno(), b"x")


def test_write_all_goes_on_after_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, payload: real_write(descriptor, payload[:2]))
    path = tmp_path / "weights"
    write_atomic(path, b"seven b")
    assert path.read_bytes() == b"seven b"


@pytest.mark.parametrize(
    "use",
    [
        lambda path: write_atomic(path / "file", b""),
        lambda path: make_folder(path / "folder"),
        lambda path: make_folder(path),
        lambda path: remove(path / "file"),
    ],
    ids=["write", "make folder below", "make folder", "remove"],
)
def test_a_file_where_a_folder_must_be_is_an_output_error(use, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(OutputError, match=r"Cannot write .*blocked.*Give a folder"):
        use(blocked)
    assert blocked.read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_write_permission_is_an_output_error(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"Permission denied.*write permission"):
        write_atomic(locked / "file", b"")


def test_a_failed_rename_takes_its_draft_away(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        write_atomic(path, b"new")
    assert path.is_dir()
    assert not draft_of(path).exists()


def test_errors_of_other_kinds_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not about files"), writing(tmp_path):
        raise ValueError("not about files")


def test_remove_takes_what_is_there_and_accepts_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("")
    remove(path)
    assert not path.exists()
    remove(path)


def test_make_folder_makes_parents_and_accepts_an_existing_one(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_sync_folder_refuses_a_missing_one(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")
