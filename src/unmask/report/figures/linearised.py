"""The parts of the linear model of robustness, several models over each other (Shafahi et al. 2018, Figures 1 to 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmask.report.figures.canvas import WIDTHS, Columns, Panel, blank, fitted, legend_below, scale_of, styled
from unmask.report.figures.evidence import Linearised, read_panels
from unmask.report.words import distinct

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import StepPatch

Floats = npt.NDArray[np.float64]

MOST_BINS, LEAST_BINS = 40, 10
FAR_APART = 20.0
PARTS = {
    "logit_gap": "logit gap",
    "gradient_gap": "gradient gap",
    "eps_linear": "linearised eps",
    "cosine": "cosine of the gradients",
}


def linearised_figure(panels: Sequence[Panel], *, columns: Columns = 2) -> Figure:
    """Return histograms over the images of Equation 4's numerator, denominator and quotient, and of the cosine.

    Where the models' values are of very different size the axis is logarithmic and leaves out values that are not
    positive. The dashed line in the histogram of the linearised eps is the threat's eps. Raises LedgerError for
    evidence of another form.
    """
    found = read_panels(Linearised, panels)
    names = distinct([title for title, _ in found])
    down, across = (1, 4) if columns == 2 else (2, 2)
    with styled():
        figure = blank(columns, down * 1.45 + (0.3 if len(names) > 1 else 0.2))
        grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
        for place, (axes, (part, label)) in enumerate(zip(grid, PARTS.items(), strict=True)):
            factor, unit = scale_of(found[0][1].norm) if part == "eps_linear" else (1.0, "")
            values = [factor * _values(getattr(evidence, part)) for _, evidence in found]
            handles = _draw(axes, values, names, between=(-1, 1) if part == "cosine" else None)
            axes.set_xlabel(label + unit)
            if part == "eps_linear":
                axes.axvline(factor * found[0][1].eps, color="k", ls=(0, (4, 2)), lw=0.8, marker="", gid="eps")
            if place % across == 0:
                axes.set_ylabel("images (%)")
        _name(figure, grid[0], handles, names, columns)
    return figure


def logits_figure(panels: Sequence[Panel], *, columns: Columns = 2) -> Figure:
    """Return the histograms of all logits, one line per model, as densities on a logarithmic axis.

    Raises LedgerError for evidence of another form.
    """
    found = read_panels(Linearised, panels)
    names = distinct([title for title, _ in found])
    with styled():
        figure = blank(columns, 2.1 + (0.3 if len(names) > 1 else 0.1))
        axes = figure.subplots()
        handles = []
        for place, (name, (_, evidence)) in enumerate(zip(names, found, strict=True)):
            counts, edges = np.array(evidence.logits.counts, dtype=np.float64), np.array(evidence.logits.edges)
            density = counts / max(counts.sum(), 1) / np.diff(edges)
            look: dict[str, Any] = {"color": f"C{place}", "lw": 1.1, "ls": _dash(place), "label": name, "gid": name}
            handles.append(axes.stairs(density, edges.tolist(), **look))
        axes.set_yscale("log")
        _plain_powers(axes)
        axes.set_xlabel("logit")
        axes.set_ylabel("density")
        _name(figure, axes, handles, names, columns)
    return figure


def _draw(
    axes: Axes, values: Sequence[Floats], names: Sequence[str], between: tuple[float, float] | None
) -> list[StepPatch]:
    finite = [part[np.isfinite(part)] for part in values]
    log = between is None and _far_apart(finite)
    shown = [part[part > 0] if log else part for part in finite]
    drawn: list[StepPatch] = []
    edges = _edges([part for part in shown if len(part)], log, between)
    for place, (name, part) in enumerate(zip(names, shown, strict=True)):
        weights = np.full(len(part), 100 / max(len(values[place]), 1))
        counts, _ = np.histogram(np.clip(part, edges[0], edges[-1]), edges, weights=weights)
        colour = f"C{place}"
        axes.stairs(counts, edges.tolist(), color=colour, alpha=0.2, fill=True, lw=0)
        drawn.append(axes.stairs(counts, edges.tolist(), color=colour, lw=1.0, ls=_dash(place), label=name, gid=name))
    if log:
        axes.set_xscale("log")
        _plain_powers(axes, "x")
    axes.set_xlim(edges[0], edges[-1])
    return drawn


def _edges(values: Sequence[Floats], log: bool, between: tuple[float, float] | None) -> Floats:
    """Return the edges of the bins, from the least to the greatest value but for stray ones, which the ends take in."""
    if between is not None or not values:
        low, high = between or (0.0, 1.0)
    else:
        low = min(float(np.quantile(part, 0.01)) for part in values)
        high = max(float(np.quantile(part, 0.98)) for part in values)
    if high <= low:
        low, high = (low / 2, 2 * low) if log else (low - 0.5, low + 0.5)
    bins = int(np.clip(2 * max((len(part) for part in values), default=0) ** 0.5, LEAST_BINS, MOST_BINS))
    return np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)


def _far_apart(values: Sequence[Floats]) -> bool:
    typical = [float(np.median(np.abs(part))) for part in values if len(part)]
    return len(typical) > 1 and min(typical) > 0 and max(typical) > FAR_APART * min(typical)


def _values(values: Sequence[float | None]) -> Floats:
    """Return the values with NaN for those that are infinite or undefined: they count as images, and are not drawn."""
    return np.array(values, dtype=np.float64)


def _dash(place: int) -> str:
    return ("-", "--", "-.", ":")[place % 4]


def _plain_powers(axes: Axes, which: str = "y") -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(figure: Figure, axes: Axes, handles: Sequence[Artist], names: Sequence[str], columns: Columns) -> None:
    if len(names) > 1:
        legend_below(figure, handles, columns, names)
    else:
        axes.set_title(fitted(names[0], WIDTHS[columns] / 2), loc="left")
