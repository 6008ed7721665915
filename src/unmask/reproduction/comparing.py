"""What a reproduction leaves: a table or figure, published beside measured, from the records of its parts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from unmask.environment import code_version, hardware, packages
from unmask.files import make_folder
from unmask.ledger.comparison import CellEntry, Comparison, RowEntry, write_comparison
from unmask.recipes.tables import Figure, Table
from unmask.report.figures import save
from unmask.report.figures.recorded import draw, load_recorded, panels_of
from unmask.reproduction.measuring import recorded
from unmask.reproduction.planning import Model, Plan, cells

DRAWN = "png"


def compare(plan: Plan, one: Table | Figure, modern: Sequence[str] | None, device: str = "cpu") -> Comparison:
    """Return a table or figure whose every part is recorded, published beside measured, and leave its record.

    `modern` names the columns beside the published ones (None: all).
    """
    folder = plan.root / plan.scale.name / one.name
    make_folder(folder)
    relative = partial(os.path.relpath, start=folder)
    rows = _rows(plan, one, relative)
    found = _cells(plan, one, modern, relative) if isinstance(one, Table) else []
    published = dict.fromkeys(cell.column for cell in found if cell.column not in _modern(one, modern))
    comparison = Comparison(
        name=one.name,
        paper=one.paper,
        printed=one.printed,
        title=one.title,
        reading=one.reading,
        scale=plan.scale.name,
        scale_summary=plan.scale.summary,
        seed=plan.seed,
        columns=list(published),
        modern=[column for column in _modern(one, modern) if any(cell.column == column for cell in found)],
        by=one.by if isinstance(one, Table) else "column",
        rows=rows,
        cells=found,
        drawings=[_drawn(one, rows, folder)] if isinstance(one, Figure) else [],
        command=_command(plan, one, modern),
        version=code_version(),
        packages=packages(),
        hardware=hardware(torch.device(device)),
    )
    write_comparison(folder, comparison)
    return comparison


def _command(plan: Plan, one: Table | Figure, modern: Sequence[str] | None) -> str:
    words = ["unmask", "reproduce", one.name, "--scale", plan.scale.name, "--seed", str(plan.seed)]
    words += [] if modern is None else ["--modern", ",".join(modern) or "none"]
    return shlex.join([*words, *(word for pair in plan.instead.items() for word in ("--data", "=".join(pair)))])


def _modern(one: Table | Figure, modern: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(one, Figure) or one.by == "row":
        return ()
    return tuple(name for name in one.modern if modern is None or name in modern)


def _rows(plan: Plan, one: Table | Figure, relative: Callable[[Path], str]) -> list[RowEntry]:
    recipes = {row: recipe for row, (recipe, _) in one.rows().items()} if isinstance(one, Table) else one.recipes()
    found = []
    for row, recipe in recipes.items():
        model = plan.model(recipe)
        run = relative(plan.studied(one, recipe).folder) if isinstance(one, Figure) else ""
        found.append(
            RowEntry(row=row, recipe=recipe.name, model=relative(model.folder), trained=_words(model), run=run)
        )
    return found


def _drawn(figure: Figure, rows: Sequence[RowEntry], folder: Path) -> str:
    """Draw a figure from the studies of its rows; returns the file's name."""
    panels = [
        panel
        for row in rows
        for panel in panels_of(figure.kind, load_recorded(folder / row.run), folder / row.run, row.row)
    ]
    return save(draw(figure.kind, panels), folder / f"figure.{DRAWN}", DRAWN).name


def _words(model: Model) -> str:
    recipe, training = model.recipe, model.recipe.training
    images = "all images" if recipe.images is None else f"{recipe.images:,} images"
    return (
        f"{recipe.architecture} on {recipe.data}, {images}, {training.epochs} epochs of batches of "
        f"{training.batch_size}, {training.optimizer.name} {training.rate:g}, seed {model.seed}"
    )


def _cells(plan: Plan, table: Table, modern: Sequence[str] | None, relative: Callable[[Path], str]) -> list[CellEntry]:
    claims = {(claim.row, claim.column): claim for _, each in table.rows().values() for claim in each}
    found = []
    for (row, column), recipe, one in cells(table, modern):
        claim = claims.get((row, column))
        published, doubt = (None, "") if claim is None else (claim.value, claim.doubt)
        cell = CellEntry(row=row, column=column, published=published, doubt=doubt)
        what = plan.measured(recipe, one)
        if what is None:
            found.append(cell.model_copy(update={"note": "no surrogate"}))
            continue
        got = recorded(what.folder)
        figures = {"measured": got.share, "interval": got.interval, "n": got.n, "evaluations": got.evaluations}
        found.append(cell.model_copy(update={**figures, "run": relative(got.run)}))
    return found
