"""`unmask reproduce` as a user types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from unmask.cli.app import app
from unmask.recipes.tables import EXPERIMENTS

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder, without data: the digits stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMASK_DATA", str(tmp_path / "none"))
    return lambda *words: CliRunner().invoke(app, ["reproduce", *words])


def test_a_table_leaves_its_files_and_a_page(run: Run) -> None:
    result = run("002/table1", "--scale", "smoke", "--modern", "audit", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (table,) = document["comparisons"]
    assert (table["columns"], table["modern"]) == (["white box", "black box", "clean"], ["audit"])
    folder = Path("runs/reproduce/smoke/002/table1")
    assert {path.name for path in folder.iterdir()} == {"comparison.json", "table.csv", "table.md", "table.tex"}
    assert "96.4" in (folder / "table.md").read_text() and "96.4" in (folder / "table.tex").read_text()
    assert "digits-cnn on digits" in (folder / "table.md").read_text()
    assert "002/table1" in Path("runs/reproduce/smoke/index.html").read_text()


def test_a_figure_is_drawn_and_shown_on_the_page(run: Run) -> None:
    result = run("001/figure2a", "--scale", "smoke")
    assert result.exit_code == 0, result.output
    assert Path("runs/reproduce/smoke/001/figure2a/figure.png").stat().st_size > 1_000
    assert "data:image/png" in Path("runs/reproduce/smoke/index.html").read_text()


def test_a_plan_says_what_it_costs_and_does_nothing(run: Run) -> None:
    result = run("000/mnist", "--scale", "smoke", "--plan")
    assert result.exit_code == 0 and re.search(r"9 models to train .*evaluations, at a guess", result.output)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("000/minst",), "There is no table or figure '000/minst'"),
        (("000/mnist", "--scale", "large"), "There is no scale 'large'"),
        (("000/mnist",), "try --scale smoke"),
        (("000/mnist", "--modern", "audits"), "expected all, none, or some of"),
        (("000/mnist", "--data", "mnist"), "expected NAME=OTHER"),
        (("000/mnist", "--module", "no_such_module"), "no_such_module"),
        (("000/mnist", "--scale", "smoke", "--device", "tpu"), "tpu"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_made(run: Run, words: tuple[str, ...], expected: str) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert expected in result.output and "Traceback" not in result.output
    assert not Path("runs").exists()


def test_a_record_that_is_no_comparison_is_refused_by_name(tmp_path: Path) -> None:
    from unmask.errors import LedgerError
    from unmask.ledger.comparison import load_comparison

    with pytest.raises(LedgerError, match="unmask reproduce"):
        load_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"kind": "audit"}')
    with pytest.raises(LedgerError, match="kind"):
        load_comparison(tmp_path)


def test_all_tables_and_figures_of_the_papers_are_listed() -> None:
    result = CliRunner().invoke(app, ["list", "tables", "--json"])
    names = {row["name"] for row in json.loads(result.stdout)}
    assert names == set(EXPERIMENTS)
    assert names >= {"000/mnist", "000/cifar10", "000/tiny-imagenet", "002/figure1"}
    assert names >= {f"001/table{n}" for n in range(1, 12)} | {f"002/table{n}" for n in range(1, 11)}
