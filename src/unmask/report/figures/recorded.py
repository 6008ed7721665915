"""Figures from recorded runs: which kinds there are, what a run holds to draw, and the drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unmask.errors import LedgerError
from unmask.files import make_folder
from unmask.ledger import load_run
from unmask.ledger.diagnosis import is_diagnosis, load_diagnosis
from unmask.report.figures.activations import activations_figure
from unmask.report.figures.canvas import Columns, Panel, save
from unmask.report.figures.curves import curve_figure
from unmask.report.figures.gallery import gallery_figure
from unmask.report.figures.heatmap import heatmap_figure
from unmask.report.figures.histogram import histogram_figure
from unmask.report.figures.linearised import linearised_figure, logits_figure
from unmask.report.figures.surface import surface_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GALLERY = "gallery"
KINDS: dict[str, tuple[str, ...]] = {
    "heatmap": ("heatmap",),
    "histogram": ("histogram",),
    "surface": ("surface",),
    "curve": ("eps-curve", "restart-curve", "step-curve"),
    "linearised": ("linearised",),
    "logits": ("linearised",),
    "activations": ("activations",),
    GALLERY: (),
}
_DRAWERS: dict[str, Callable[..., Figure]] = {
    "heatmap": heatmap_figure,
    "histogram": histogram_figure,
    "surface": surface_figure,
    "curve": curve_figure,
    "linearised": linearised_figure,
    "logits": logits_figure,
    "activations": activations_figure,
    GALLERY: gallery_figure,
}
# What an audit's own checks found serves as well.
CHECKS = {"eps-curve": "eps_curve", "histogram": "restart_losses"}


class Recorded(NamedTuple):
    """What a run holds to draw: its model's name, the norm of its threat, and evidence by study."""

    name: str
    norm: str
    evidence: Mapping[str, Mapping[str, object]]

    def panels(self, studies: Sequence[str], title: str) -> list[Panel]:
        """Return what can be drawn of these studies, under a title."""
        return [(title, {**self.evidence[study], "norm": self.norm}) for study in studies if study in self.evidence]


def load_recorded(run: Path) -> Recorded:
    """Return what the run in a folder, a diagnosis or an audit, holds to draw; raises LedgerError."""
    if is_diagnosis(run):
        found = load_diagnosis(run)
        evidence = {study: finding.evidence for study, finding in found.findings.items() if finding.evidence}
        return Recorded(found.spec.name, found.spec.threat.norm, evidence)
    audited = load_run(run)
    by_check = {finding.check: finding.evidence for finding in audited.findings if finding.evidence}
    evidence = {study: by_check[check] for study, check in CHECKS.items() if check in by_check}
    return Recorded(audited.spec.name, audited.spec.threat.norm, evidence)


def panels_of(kind: str, recorded: Recorded, run: Path, title: str) -> list[tuple[str, Any]]:
    """Return what a figure of a kind shows of a run; raises LedgerError where the run holds nothing for it."""
    if kind == GALLERY:
        return [(title, load_run(run))]
    panels = recorded.panels(KINDS[kind], title)
    if not panels:
        studies = " or ".join(KINDS[kind])
        raise LedgerError(
            f"{run} holds no {studies}. Make it: unmask diagnose MODEL {KINDS[kind][0]} --run-dir {run} "
            "(with the settings of that run)."
        )
    return panels


def draw(kind: str, panels: Sequence[tuple[str, Any]], columns: Columns = 2, image: int | None = None) -> Figure:
    """Return the figure of a kind; raises LedgerError for evidence of another form."""
    chosen: dict[str, Any] = {"image": image} if kind == "surface" else {}
    return _DRAWERS[kind](panels, columns=columns, **chosen)


def draw_run(run: Path, format: str, studies: Sequence[str]) -> list[Path]:
    """Draw the figures of some studies of a diagnosis into its folder `figures`; returns where they are."""
    found, folder = load_recorded(run), run / "figures"
    made = []
    for study in studies:
        panels = found.panels((study,), found.name)
        for kind in (kind for kind, shown in KINDS.items() if study in shown and panels):
            make_folder(folder)
            name = study if kind == "curve" else kind
            made.append(save(draw(kind, panels), folder / f"{name}.{format}", format))
    return made
