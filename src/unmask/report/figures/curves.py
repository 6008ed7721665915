"""Accuracy against eps, restarts and steps, one line per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unmask.report.figures.canvas import WIDTHS, Columns, Panel, blank, fitted, legend_below, scale_of, short, styled
from unmask.report.figures.evidence import Curve, read_panels
from unmask.report.words import distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDE = 1.7
FAR = 3.0
SPAN = 20.0
AXES = ("eps", "restarts", "steps")


def curve_figure(panels: Sequence[Panel], *, columns: Columns = 2) -> Figure:
    """Return accuracy against eps, restarts or steps: one plot for each of these that occurs, one line per model.

    The last point of an eps curve is left out where it lies far beyond the others, as that of an attack without a
    bound does. Raises LedgerError for evidence of another form.
    """
    found = read_panels(Curve, panels)
    groups = {name: _lines(name, found) for name in AXES if any(getattr(curve, name) for _, curve in found)}
    names = list(dict.fromkeys(title for lines in groups.values() for title in lines))
    across = min(len(groups), max(int(WIDTHS[columns] // WIDE), 1))
    down, width = -(-len(groups) // across), WIDTHS[columns] / across
    with styled():
        figure = blank(columns, down * min(0.72 * width, 2.2) + (0.3 if len(names) > 1 else 0.15))
        grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
        for place, (axes, (name, lines)) in enumerate(zip(grid, groups.items(), strict=False)):
            handles = _draw(axes, name, lines, names)
            if place % across == 0:
                axes.set_ylabel("accuracy (%)")
        for unused in grid[len(groups) :]:
            unused.remove()
        if len(names) > 1:
            legend_below(figure, handles, columns, names)
        else:
            grid[0].set_title(fitted(names[0], width), loc="left")
    return figure


def _lines(name: str, found: Sequence[tuple[str, Curve]]) -> dict[str, Curve]:
    """Return the curves over `name` by model; a second one of the same model's name gets a number."""
    own = [(title, curve) for title, curve in found if getattr(curve, name)]
    return dict(zip(distinct([title for title, _ in own]), (curve for _, curve in own), strict=True))


def _draw(axes: Axes, name: str, lines: Mapping[str, Curve], names: Sequence[str]) -> list[Line2D]:
    factor, unit = scale_of(next(iter(lines.values())).norm) if name == "eps" else (1.0, "")
    drawn: list[float] = []
    found: list[Line2D] = []
    # A model without this curve gets an empty line, so that every model looks the same in all plots.
    for title in names:
        x, y = _points(name, lines[title]) if title in lines else ([], [])
        shown = [factor * value for value in x]
        found += axes.plot(shown, [100 * share for share in y], label=title, gid=f"{name} {title}", clip_on=False)
        drawn += shown
    axes.set_xlabel(name + unit)
    axes.set_ylim(0, 103)
    axes.grid(axis="y")
    axes.margins(x=0.03)
    if name != "eps" and min(drawn) > 0 and max(drawn) > SPAN * min(drawn):
        axes.set_xscale("log")
        _plain_ticks(axes, drawn)
    return found


def _points(name: str, curve: Curve) -> tuple[list[float], list[float]]:
    x, y = list(getattr(curve, name)), list(curve.accuracy)
    if name == "eps" and len(x) > 2 and x[-1] > FAR * x[-2] > 0:
        return x[:-1], y[:-1]
    return x, y


def _plain_ticks(axes: Axes, drawn: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, at the points as far as they stand apart."""
    from matplotlib.ticker import NullLocator

    apart = (max(drawn) / min(drawn)) ** (1 / 6)
    chosen: list[float] = []
    for value in sorted(set(drawn)):
        if not chosen or value >= apart * chosen[-1]:
            chosen.append(value)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(chosen, [short(value) for value in chosen])
