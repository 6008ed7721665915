"""Final losses of the usual attack over its restarts, image by image (Mosbach et al. 2018, histograms)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unmask.report.figures.canvas import GUARANTEE, WIDTHS, Columns, Panel, blank, fitted, styled
from unmask.report.figures.evidence import Histogram, read_panels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("easily found", "depends on the restart", "many restarts needed", "not found")
BINS = 30
NARROW = 1.4


def histogram_figure(panels: Sequence[Panel], *, columns: Columns = 2, images: int = 3) -> Figure:
    """Return a row per model with the losses of up to `images` images, one of each kind first.

    The line is the loss ln K: at it and beyond an image of K classes is surely misclassified; above each plot stands
    how many restarts get there. Raises LedgerError for evidence of another form.
    """
    found = read_panels(Histogram, panels)
    shown = [_telling(evidence.kinds, images) for _, evidence in found]
    across = max(map(len, shown))
    width = (WIDTHS[columns] - 0.55) / across
    high = min(0.5 * width + 0.75, 1.7)
    with styled():
        figure = blank(columns, len(found) * high + 0.4)
        grid = figure.subplots(len(found), across, squeeze=False, sharey="row")
        for row, (title, evidence), chosen in zip(grid, found, shown, strict=True):
            for axes, place in zip(row, chosen, strict=False):
                _draw(axes, evidence, place, width)
            for unused in row[len(chosen) :]:
                unused.remove()
            row[0].set_ylabel(f"{fitted(title, high - 0.3)}\nrestarts (%)")
        last = grid[-1][: len(shown[-1])]
        for axes in last if width >= NARROW else [last[len(last) // 2]]:
            axes.set_xlabel("final cross-entropy")
        handles, labels = _explained(grid[0][0], found[0][1])
        figure.legend(handles, labels, loc="outside lower center")
    return figure


def _draw(axes: Axes, evidence: Histogram, place: int, inches: float) -> None:
    losses = evidence.losses[place]
    edges = _edges(losses, evidence.guarantee)
    axes.hist(losses, edges.tolist(), weights=np.full(len(losses), 100 / len(losses)), color="C0", gid="losses")
    axes.axvline(evidence.guarantee, color=GUARANTEE, ls="-", lw=1.4, marker="", gid="guarantee", label="guarantee")
    axes.set_xlim(edges[0], edges[-1])
    axes.locator_params(nbins=4)
    reached = sum(loss >= evidence.guarantee for loss in losses)
    narrow = inches < NARROW
    image, line = ("#", "") if narrow else ("image ", " the line")
    note = f"{image}{evidence.ids[place]}: {reached:,}/{len(losses):,} beyond{line}"
    kind = fitted(evidence.kinds[place], 2 * inches if narrow else inches)
    kind = fill(kind, max(int(inches * 18), 8)) if narrow else kind
    axes.set_title(f"{kind}\n{fitted(note, inches, 6)}", fontsize=6 if narrow else 7)


def _explained(axes: Axes, evidence: Histogram) -> tuple[list[Artist], list[str]]:
    classes = round(math.exp(min(evidence.guarantee, 50)))
    line = f"ln {classes:,} = {evidence.guarantee:.2f}: from here on, surely misclassified"
    return axes.get_legend_handles_labels()[0], [line]


def _telling(kinds: Sequence[str], most: int) -> list[int]:
    """Return up to `most` positions: the first image of each kind, in the order of KINDS, then the others."""
    order = [*KINDS, *sorted(set(kinds) - set(KINDS))]
    firsts = [kinds.index(kind) for kind in order if kind in kinds][:most]
    others = [place for place in range(len(kinds)) if place not in firsts]
    return sorted([*firsts, *others][:most], key=lambda place: (order.index(kinds[place]), place))


def _edges(losses: Sequence[float], guarantee: float) -> npt.NDArray[np.float64]:
    low, high = min(0.0, *losses), max(guarantee, *losses)
    # A margin on the right keeps the line of the guarantee off the frame.
    return np.linspace(low, high + 0.06 * ((high - low) or 1.0), BINS + 1)
