"""What people see in the terminal: tables and messages on stderr or stdout, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

COLOURS = {"robust": "green", "masked": "red", "not robust": "red", "inconclusive": "yellow"}


def print_json(value: object) -> None:
    """Print one JSON document to stdout, and nothing else."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns whose cells are numbers or shares are right-aligned."""
    cells = [list(map(str, row)) for row in rows]
    table = Table(
        title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for index, name in enumerate(columns):
        numeric = all(row[index][:1].isdigit() or row[index] in ("", "-") for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    out.print(table)


def share(value: float | None) -> str:
    """Format a share as a percentage with one decimal, "-" for None."""
    return "-" if value is None else f"{100 * value:.1f}%"
