"""Accuracy against the step size and the number of steps of the usual attack (Mosbach et al. 2018, heatmaps)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unmask.report.figures.canvas import (
    WIDTHS,
    Columns,
    Panel,
    blank,
    fitted,
    rows_of,
    scale_of,
    short,
    styled,
    thinned,
)
from unmask.report.figures.evidence import Heatmap, read_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

WIDE = 1.55
IN_CELLS = 0.27
MARKERS = {"usual": "o", "lowest": "s"}


def heatmap_figure(panels: Sequence[Panel], *, columns: Columns = 2) -> Figure:
    """Return one heatmap per model on one colour scale, 0 to 100%.

    A ring marks the usual setting, a square the lowest accuracy where that is another cell. Cells hold their figure
    where there is room. Raises LedgerError for evidence of another form.
    """
    found = read_panels(Heatmap, panels)
    rows, per_row = rows_of(len(found), columns, WIDE)
    width = (WIDTHS[columns] - 0.9) / per_row
    with styled():
        figure = blank(columns, rows * min(0.78 * width + 0.62, 2.9) + 0.3)
        grid = figure.subplots(rows, per_row, squeeze=False).ravel().tolist()
        for place, (axes, (title, evidence)) in enumerate(zip(grid, found, strict=False)):
            image = _draw(axes, evidence, width)
            axes.set_title(fitted(title, width))
            if place % per_row == 0:
                axes.set_ylabel("step size" + scale_of(evidence.norm)[1])
            axes.set_xlabel("steps")
        for unused in grid[len(found) :]:
            unused.remove()
        bar = figure.colorbar(image, ax=grid[: len(found)], aspect=30, pad=0.02)
        bar.set_label("accuracy under attack (%)")
        bar.outline.set_visible(False)
        figure.legend(handles=_explained(), loc="outside lower center", ncols=2, handlelength=1)
    return figure


def _draw(axes: Axes, evidence: Heatmap, inches: float) -> AxesImage:
    shares = 100 * np.array(evidence.accuracy)
    image = axes.imshow(shares, origin="lower", aspect="auto", vmin=0, vmax=100, interpolation="nearest")
    _ticks(axes, evidence, inches)
    high, wide = shares.shape
    if inches / wide >= IN_CELLS and high <= 12:
        for (i, j), value in np.ndenumerate(shares):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=5.5, color="w" if value < 55 else "k")
    for name, setting in (("lowest", evidence.lowest_at), ("usual", evidence.usual)):
        if setting is not None and (name == "usual" or setting != evidence.usual):
            _mark(axes, evidence, setting, name, large=len(axes.texts) > 0)
    return image


def _ticks(axes: Axes, evidence: Heatmap, inches: float) -> None:
    unit = scale_of(evidence.norm)[0]
    across, up = thinned(len(evidence.steps), max(int(inches / 0.3), 2)), thinned(len(evidence.step_sizes), 8)
    axes.set_xticks(across, [str(evidence.steps[i]) for i in across])
    axes.set_yticks(up, [short(unit * evidence.step_sizes[i]) for i in up])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)


def _mark(axes: Axes, evidence: Heatmap, setting: tuple[int, float], name: str, large: bool) -> None:
    """Mark a setting (steps, step size); one that is not on the grid is marked between its neighbours' centres."""
    across = np.interp(setting[0], evidence.steps, range(len(evidence.steps)))
    up = np.interp(setting[1], evidence.step_sizes, range(len(evidence.step_sizes)))
    size = 13 if large else 6
    for colour, width in (("k", 2.0), ("w", 1.0)):
        axes.plot(
            [across],
            [up],
            MARKERS[name],
            ms=size,
            mfc="none",
            mec=colour,
            mew=width,
            ls="none",
            clip_on=False,
            gid=name,
        )


def _explained() -> list[Line2D]:
    from matplotlib.lines import Line2D

    words = {"usual": "the usual attack", "lowest": "the lowest accuracy"}
    return [
        Line2D([], [], ls="none", marker=MARKERS[name], mfc="none", mec="k", ms=5, label=words[name]) for name in words
    ]
