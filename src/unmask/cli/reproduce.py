"""`unmask reproduce`: the seeds' tables and figures, published and measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.console import err, out, print_json, print_table
from unmask.cli.options import DataDir, Json, Seed
from unmask.errors import RecipeError

if TYPE_CHECKING:
    from unmask.ledger.comparison import Comparison
    from unmask.reproduction import Plan, Step

ROOT = Path("runs/reproduce")
LINES = 20  # of progress, where there is no terminal to draw a bar on


def _names() -> list[str]:
    from unmask.recipes.tables import EXPERIMENTS

    return [*EXPERIMENTS, "all"]


def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Tables and figures (see `unmask list tables`), 000, 001, 002, or all.", autocompletion=_names
        ),
    ],
    scale: Annotated[str, typer.Option(help="paper, gpu-hour, small (two cores), or smoke (seconds).")] = "small",
    seed: Seed = 0,
    root: Annotated[Path, typer.Option(help="Where models, records and tables are kept.")] = ROOT,
    data_dir: DataDir = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; may be repeated. Default: cpu.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work, in turn on the devices.")] = 1,
    modern: Annotated[
        str, typer.Option(help="Columns beside the published ones: all, none, or names such as audit,transfer.")
    ] = "all",
    data: Annotated[
        list[str] | None,
        typer.Option(help="Other data in a data set's place: cifar10=subset.npz; may be repeated."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would cost, and do nothing.")] = False,
    module: Annotated[
        list[str] | None, typer.Option(help="A module of your own that registers recipes or tables; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Train what is missing, measure it, and set it beside what was published; the same command resumes.

    Leaves table.md, table.csv, table.tex and comparison.json per table under ROOT/SCALE, figures as PNG, and one page
    ROOT/SCALE/index.html.

    Examples:

        unmask reproduce 000/mnist --data-dir data

        unmask reproduce 001/table2 002/table1 --scale small --plan

        unmask reproduce all --scale smoke --modern none

        unmask reproduce 000/cifar10 --scale smoke --data cifar10=cifar10_subset.npz

        unmask reproduce 000 --scale gpu-hour --device cuda:0 --device cuda:1 --workers 4
    """
    from unmask.cli.progress import bar
    from unmask.contract import usable_device
    from unmask.reproduction import Asked, carry_out

    asked = Asked(tuple(names), scale, seed, root, data_dir, _columns(modern), tuple(module or ()), _pairs(data or []))
    devices = tuple(device or ["cpu"])
    for one in devices:
        usable_device(one)
    made = asked.plan()
    _announce(made, devices[0])
    if plan:
        return
    with bar(f"Reproducing {', '.join(names)}") as shown:

        def watch(step: Step) -> None:
            shown.part(step.number, step.of, step.what)
            if not err.is_terminal and step.number % max(1, step.of // LINES) == 0:
                err.print(f"[{step.number + 1}/{step.of}] {step.what}", markup=False, soft_wrap=True)

        found = carry_out(asked, made, devices=devices, workers=workers, watch=watch)
    pages = _leave(found, root / scale)
    if json:
        print_json({"comparisons": [one.model_dump(mode="json") for one in found], "files": pages})
    else:
        _show(found, pages)


def _columns(words: str) -> tuple[str, ...] | None:
    if words in ("all", "none"):
        return None if words == "all" else ()
    return tuple(word.strip() for word in words.split(","))


def _pairs(words: list[str]) -> tuple[tuple[str, str], ...]:
    from unmask.data import DATA_SETS

    for word in words:
        name, equals, other = word.partition("=")
        if name not in DATA_SETS or not equals or not other:
            raise RecipeError(f"--data is '{word}'; expected NAME=OTHER, where NAME is one of {', '.join(DATA_SETS)}.")
    return tuple((name, other) for name, _, other in (word.partition("=") for word in words))


def _announce(plan: Plan, device: str) -> None:
    from unmask.reproduction import estimate

    cost = estimate(plan, device=device)
    err.print(
        f"{len(plan.experiments)} tables and figures at scale '{plan.scale.name}': {cost.models} models to train "
        f"(of {len(plan.models)}; {cost.images:,} images), {cost.measures} measurements (of {len(plan.measures)}) and "
        f"{cost.studies} studies (of {len(plan.studies)}); about {cost.evaluations:,} evaluations, at a guess "
        f"{_duration(cost.seconds)}.",
        style="dim",
        soft_wrap=True,
        markup=False,
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _leave(found: list[Comparison], folder: Path) -> list[Path]:
    """Write every table's files and the page of all; returns where they are."""
    from unmask.files import write_atomic
    from unmask.report import comparison as render

    made = []
    for one in found:
        for name, write in (("table.md", render.markdown), ("table.csv", render.csv), ("table.tex", render.latex)):
            if one.cells:
                path = folder / one.name / name
                write_atomic(path, write(one).encode())
                made.append(path)
        made += [folder / one.name / drawing for drawing in one.drawings]
    pictures = {
        (one.name, drawing): (folder / one.name / drawing).read_bytes() for one in found for drawing in one.drawings
    }
    page = folder / "index.html"
    write_atomic(page, render.html(*found, pictures=pictures).encode())
    return [*made, page]


def _show(found: list[Comparison], pages: list[Path]) -> None:
    from unmask.report.order import taus

    rows = []
    for one in found:
        agreed = [tau for tau in taus(one).values() if tau is not None]
        mean = f"{sum(agreed) / len(agreed):.2f}" if agreed else "-"
        measured = sum(cell.measured is not None for cell in one.cells)
        rows.append((one.name, one.title, str(len(one.rows)), f"{measured} of {len(one.cells)}", mean))
    print_table("", ["name", "title", "rows", "figures", "mean tau"], rows)
    out.print(f"Page: {pages[-1]}; tables as .md, .csv and .tex beside it.", soft_wrap=True, markup=False)
