"""`unmask figure`: figures for publication from recorded runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from unmask.cli.console import out, print_json
from unmask.cli.options import Json
from unmask.errors import OutputError, UnmaskError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unmask.report.figures import Columns, Panel

KINDS: dict[str, tuple[str, ...]] = {
    "heatmap": ("heatmap",),
    "histogram": ("histogram",),
    "surface": ("surface",),
    "curve": ("eps-curve", "restart-curve", "step-curve"),
    "linearised": ("linearised",),
    "logits": ("linearised",),
    "activations": ("activations",),
}
# What an audit's own checks found serves as well.
CHECKS = {"eps-curve": "eps_curve", "histogram": "restart_losses"}


class Recorded(NamedTuple):
    """What a run holds to draw: its model's name, the norm of its threat, and evidence by study."""

    name: str
    norm: str
    evidence: Mapping[str, Mapping[str, object]]


def figure(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS))],
    runs: Annotated[list[Path], typer.Argument(help="Folders of diagnoses (or audits: curve and histogram).")],
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
    from unmask.report.words import distinct

    recorded = [_recorded(run) for run in runs]
    names = name or distinct([one.name for one in recorded])
    panels = [
        panel for one, run, title in zip(recorded, runs, names, strict=True) for panel in _panels(kind, one, run, title)
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


def draw(kind: str, panels: Sequence[Panel], columns: Columns = 2, image: int | None = None) -> Figure:
    """Return the figure of a kind; raises LedgerError for evidence of another form."""
    from unmask.report import figures

    drawers: dict[str, Callable[..., Figure]] = {
        "heatmap": figures.heatmap_figure,
        "histogram": figures.histogram_figure,
        "surface": figures.surface_figure,
        "curve": figures.curve_figure,
        "linearised": figures.linearised_figure,
        "logits": figures.logits_figure,
        "activations": figures.activations_figure,
    }
    chosen: dict[str, Any] = {"image": image} if kind == "surface" else {}
    return drawers[kind](panels, columns=columns, **chosen)


def draw_run(run: Path, format: str, studies: Sequence[str]) -> list[Path]:
    """Draw the figures of some studies of a diagnosis into its folder `figures`; returns where they are."""
    from unmask.files import make_folder
    from unmask.report.figures import save

    found, folder = _recorded(run), run / "figures"
    made = []
    for study in studies:
        panels = _titled(found, (study,), found.name)
        for kind in (kind for kind, shown in KINDS.items() if study in shown and panels):
            make_folder(folder)
            name = study if kind == "curve" else kind
            made.append(save(draw(kind, panels), folder / f"{name}.{format}", format))
    return made


def _recorded(run: Path) -> Recorded:
    from unmask.ledger import load_run
    from unmask.ledger.diagnosis import is_diagnosis, load_diagnosis

    if is_diagnosis(run):
        found = load_diagnosis(run)
        evidence = {study: finding.evidence for study, finding in found.findings.items() if finding.evidence}
        return Recorded(found.spec.name, found.spec.threat.norm, evidence)
    audited = load_run(run)
    by_check = {finding.check: finding.evidence for finding in audited.findings if finding.evidence}
    evidence = {study: by_check[check] for study, check in CHECKS.items() if check in by_check}
    return Recorded(audited.spec.name, audited.spec.threat.norm, evidence)


def _panels(kind: str, recorded: Recorded, run: Path, title: str) -> list[Panel]:
    panels = _titled(recorded, KINDS[kind], title)
    if not panels:
        studies = " or ".join(KINDS[kind])
        raise UnmaskError(
            f"{run} holds no {studies}. Make it: unmask diagnose MODEL {KINDS[kind][0]} --run-dir {run} "
            "(with the settings of that run)."
        )
    return panels


def _titled(recorded: Recorded, studies: Sequence[str], title: str) -> list[Panel]:
    found = recorded.evidence
    return [(title, {**found[study], "norm": recorded.norm}) for study in studies if study in found]
