"""`unmask figure`: figures for publication from recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from unmask.cli.console import out, print_json
from unmask.cli.options import Json
from unmask.errors import OutputError, UnmaskError, unknown
from unmask.report.figures.recorded import KINDS

if TYPE_CHECKING:
    from unmask.report.figures import Columns


def figure(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS))],
    runs: Annotated[list[Path], typer.Argument(help="Folders of diagnoses, or audits (curve, histogram, gallery).")],
    format: Annotated[
        str | None, typer.Option("--format", help="pdf, svg or png. Default: what --output ends in, else pdf.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, max=2, help="Wide as one column (3.4 in) or two (7 in).")] = 2,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file. Default: KIND.FORMAT.")] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What the figure calls a model, in the order of the runs; may be repeated.")
    ] = None,
    image: Annotated[int | None, typer.Option(help="Surface: the id of the image shown. Default: the first.")] = None,
    json: Json = False,
) -> None:
    """Draw one figure of several models, for print, from the findings of `unmask diagnose`.

    Examples:

        unmask figure heatmap runs/plain runs/clp runs/alp --name Plain --name CLP --name "50% AT + ALP"

        unmask figure curve runs/clp -o clp.svg --columns 1

        unmask figure surface runs/clp --image 17 --format png
    """
    if kind not in KINDS:
        raise UnmaskError(unknown("figure", kind, KINDS))
    if image is not None and kind != "surface":
        raise UnmaskError(f"--image chooses the image of a surface; a {kind} figure has none to choose.")
    if name and len(name) != len(runs):
        raise UnmaskError(f"{len(name)} names came for {len(runs)} runs; give one --name per run, or none.")
    chosen = check_format(format or (output.suffix.lstrip(".").lower() if output and output.suffix else "pdf"))
    from unmask.report.figures import save
    from unmask.report.figures.recorded import draw, load_recorded, panels_of
    from unmask.report.words import distinct

    recorded = [load_recorded(run) for run in runs]
    names = name or distinct([one.name for one in recorded])
    panels = [
        panel
        for one, run, title in zip(recorded, runs, names, strict=True)
        for panel in panels_of(kind, one, run, title)
    ]
    path = save(draw(kind, panels, cast("Columns", columns), image), output or Path(f"{kind}.{chosen}"), chosen)
    if json:
        print_json({"figure": path, "kind": kind, "runs": runs})
    else:
        out.print(f"Figure: {path}", soft_wrap=True, markup=False)


def check_format(format: str) -> str:
    """Return the format, or raise OutputError where figures have none of that name."""
    from unmask.report.figures import FORMATS

    if format not in FORMATS:
        raise OutputError(unknown("figure format", format, FORMATS))
    return format
