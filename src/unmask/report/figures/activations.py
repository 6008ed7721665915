"""How many units carry a network's features, by model (Shafahi et al. 2018, Figures 10 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unmask.report.figures.canvas import WIDTHS, Columns, Panel, blank, fitted, legend_below, styled
from unmask.report.figures.evidence import Activations, Layer, read_panels
from unmask.report.words import distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def activations_figure(panels: Sequence[Panel], *, columns: Columns = 2) -> Figure:
    """Return the mean absolute activation of every unit, largest first: a plot per layer, a line per model.

    The legend says how many units of the first layer are silent. Raises LedgerError for evidence of another form.
    """
    found = read_panels(Activations, panels)
    names = distinct([title for title, _ in found])
    count = max(len(evidence.layers) for _, evidence in found)
    across = min(count, columns)
    down, width = -(-count // across), WIDTHS[columns] / across
    with styled():
        figure = blank(columns, down * min(0.7 * width, 2.1) + 0.3)
        grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
        handles: list[Line2D] = []
        for place, axes in enumerate(grid[:count]):
            for name, (_, evidence) in zip(names, found, strict=True):
                sums = evidence.layers[place].sums if place < len(evidence.layers) else []
                mean = np.sort(np.array(sums, dtype=np.float64))[::-1] / evidence.n
                marker = {} if 0 < len(mean) <= 32 else {"marker": ""}
                handles += axes.plot(np.arange(1, len(mean) + 1), mean, label=name, gid=name, **marker)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("unit, largest first")
            axes.set_title(fitted(_layer_name(found, place), width))
            if place % across == 0:
                axes.set_ylabel("mean |activation|")
        for unused in grid[count:]:
            unused.remove()
        room = WIDTHS[columns] - 2.4
        shown = [
            f"{fitted(name, room, 6.5)} {_silent(evidence.layers[0])}"
            for name, (_, evidence) in zip(names, found, strict=True)
        ]
        legend_below(figure, handles[: len(found)], columns, shown)
    return figure


def _layer_name(found: Sequence[tuple[str, Activations]], place: int) -> str:
    """Return the name of the layers at one place: the models', where they agree."""
    given = {evidence.layers[place].name for _, evidence in found if place < len(evidence.layers)}
    return given.pop() if len(given) == 1 else ("last hidden layer" if place == 0 else "logits")


def _silent(layer: Layer) -> str:
    return f"({layer.silent:,} of {len(layer.sums):,} units silent)"
