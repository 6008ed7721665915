"""The record of a reproduced table or figure: what was published, what was measured, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from unmask.errors import LedgerError
from unmask.files import make_folder, write_atomic
from unmask.ledger.events import explain
from unmask.ledger.schema import Count, PlainDict, Share

COMPARISON = "comparison.json"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CellEntry(_Entry):
    """One figure: published (None: drawn, not printed, or not in the paper) and measured (None: not run, see `note`).

    `run` is the record's folder, relative to the comparison's; `doubt` says why the published figure is no target.
    """

    row: str
    column: str
    published: Share | None = None
    measured: Share | None = None
    interval: tuple[Share, Share] | None = None
    n: Count = 0
    evaluations: Count = 0
    run: str = ""
    doubt: str = ""
    note: str = ""


class RowEntry(_Entry):
    """One row: the recipe, the folder of its model, relative to the comparison's, and how it was trained at the scale.

    `run` is the record of a figure's study, likewise.
    """

    row: str
    recipe: str
    model: str
    trained: str
    run: str = ""


class Comparison(_Entry):
    """A table as published and as measured; `modern` names the columns that the paper does not have.

    For a figure, `rows` are the models drawn, `drawings` the files, and there are no cells.
    """

    kind: Literal["comparison"] = "comparison"
    schema_version: Literal[1] = 1
    name: str
    paper: str
    printed: str
    title: str
    reading: str
    scale: str
    scale_summary: str
    seed: int
    columns: list[str] = []
    modern: list[str] = []
    by: Literal["column", "row"] = "column"
    rows: list[RowEntry] = []
    cells: list[CellEntry] = []
    drawings: list[str] = []
    command: str
    version: str
    packages: dict[str, str] = {}
    hardware: PlainDict = {}

    def cell(self, row: str, column: str) -> CellEntry | None:
        """Return the figure in a row and a column, if there is one."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write a comparison into its folder; raises OutputError."""
    make_folder(folder)
    write_atomic(folder / COMPARISON, comparison.model_dump_json(indent=2).encode())


def load_comparison(folder: Path) -> Comparison:
    """Return the comparison kept in a folder; raises LedgerError where there is none, or it is damaged."""
    path = folder / COMPARISON
    try:
        return Comparison.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LedgerError(f"{path} cannot be read ({error.strerror}). Make it: unmask reproduce.") from error
    except ValidationError as error:
        raise LedgerError(f"{path} is no record of a comparison: {explain(error)}") from error
