"""The loss on a slice of input space (Mosbach et al. 2018, surfaces; Shafahi et al. 2018, Figures 5 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmask.errors import LedgerError
from unmask.report.figures.canvas import GUARANTEE, WIDTHS, Columns, Panel, blank, fitted, scale_of, styled
from unmask.report.figures.evidence import Surface, read_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 3
LEVELS = 12
# Smaller solids carry no names of their own: the contours below have the same axes.
NAMED = 2.6


def surface_figure(panels: Sequence[Panel], *, columns: Columns = 2, image: int | None = None) -> Figure:
    """Return the loss surface of one image per model: in three dimensions, and below (beside,
    in one column) as contours, each on a scale of its own.

    `image` is the example's id, by default the first of each evidence. The dot is the image itself, the dashed square
    the ball (where the slice reaches it), the red contour the loss ln K beyond which an image is surely misclassified.
    Raises LedgerError for evidence of another form, or without that image.
    """
    found = read_panels(Surface, panels)
    beside = columns == 1 or len(found) == 1
    per_row = 1 if beside else min(len(found), MOST)
    rows = -(-len(found) // per_row)
    width = WIDTHS[columns] / (2 if beside else per_row)
    with styled():
        figure = blank(columns, rows * width * (0.85 if beside else 1.65))
        shape = (rows, 2) if beside else (2 * rows, per_row)
        for number, (title, evidence) in enumerate(found):
            place = _place(title, evidence, image)
            first = 1 + (2 * number if beside else number + number // per_row * per_row)
            above = figure.add_subplot(*shape, first, projection="3d")
            below = figure.add_subplot(*shape, first + (1 if beside else per_row))
            above.set_title(f"{fitted(title, width)}\nimage {evidence.ids[place]}", pad=3)
            _draw_solid(above, evidence, _values(evidence, place), width)
            _draw_contours(below, evidence, _values(evidence, place))
    return figure


def _place(title: str, evidence: Surface, image: int | None) -> int:
    if image is None:
        return 0
    if image not in evidence.ids:
        held = ", ".join(map(str, evidence.ids[:12]))
        raise LedgerError(f"The surfaces of {title[:60]!r} hold no image {image}. They hold: {held}.")
    return evidence.ids.index(image)


def _values(evidence: Surface, place: int) -> npt.NDArray[np.float64]:
    """Return the losses with the first direction along the columns, as plots want them; NaN where there is none."""
    return np.array(evidence.loss[place], dtype=np.float64).T


def _units(evidence: Surface) -> tuple[npt.NDArray[np.float64], list[str]]:
    factor, unit = scale_of(evidence.norm)
    return factor * np.array(evidence.axis), [f"{name}{unit}" for name in evidence.directions]


def _draw_solid(axes: Any, evidence: Surface, values: npt.NDArray[np.float64], inches: float) -> None:
    axis, names = _units(evidence)
    axes.plot_surface(
        *np.meshgrid(axis, axis),
        values,
        cmap="viridis",
        rcount=60,
        ccount=60,
        linewidth=0,
        antialiased=True,
        rasterized=True,
    )
    axes.view_init(elev=28, azim=-58)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.0 if inches >= NAMED else 1.2)
    if inches >= NAMED:
        axes.set_xlabel(fitted(names[0], 1.3, 6), labelpad=-8, fontsize=6)
        axes.set_ylabel(fitted(names[1], 1.3, 6), labelpad=-8, fontsize=6)
        axes.set_zlabel("cross-entropy", labelpad=-8, fontsize=6)
    axes.tick_params(labelsize=5, pad=-4)
    axes.locator_params(nbins=4)
    for pane in (axes.xaxis, axes.yaxis, axes.zaxis):
        pane.set_pane_color((0.97, 0.97, 0.97, 1.0))


def _draw_contours(axes: Axes, evidence: Surface, values: npt.NDArray[np.float64]) -> None:
    axis, names = _units(evidence)
    shown = axes.pcolormesh(axis, axis, values, shading="gouraud", rasterized=True)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high > low:
        axes.contour(axis, axis, values, levels=np.linspace(low, high, LEVELS)[1:-1], colors="w", linewidths=0.35)
    if low < evidence.guarantee < high:
        axes.contour(axis, axis, values, levels=[evidence.guarantee], colors=GUARANTEE, linewidths=1.2)
    axes.plot([0], [0], "o", ms=3, mfc="w", mec="k", mew=0.7, ls="none", gid="image")
    reach = scale_of(evidence.norm)[0] * evidence.eps
    if evidence.norm == "linf" and reach < float(np.abs(axis).max()):
        square = np.array([-1, 1, 1, -1, -1]) * reach
        axes.plot(square, np.roll(square, 1), color="w", ls="--", lw=0.9, marker="", gid="ball")
    axes.set_aspect("equal")
    axes.set_xlabel(fitted(names[0], 1.4))
    axes.set_ylabel(fitted(names[1], 1.4))
    axes.locator_params(nbins=5)
    bar = axes.figure.colorbar(shown, ax=axes, aspect=18, pad=0.03)
    bar.set_label("cross-entropy")
    bar.outline.set_visible(False)
