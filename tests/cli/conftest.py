"""A runner of the command line inside the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from unmask.cli.app import app

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs one command in an empty folder, with wide output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("unmask.cli.console.out.width", 200)
    monkeypatch.setattr("unmask.cli.console.err.width", 200)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
