"""Images that an audit broke: as they are, as they were misclassified, and what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unmask.errors import LedgerError
from unmask.ledger import Run
from unmask.report.figures.canvas import WIDTHS, Columns, blank, fitted, styled
from unmask.report.gallery import broken_places, class_name, telling_events
from unmask.report.pictures import Bytes, changes, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = ("original", "adversarial", "change")
PER_COLUMN = 4

Shown = tuple[Bytes, str]
"""Pixels (H, W) or (H, W, 3), and the words above them."""


def gallery_figure(panels: Sequence[tuple[str, Run]], *, columns: Columns = 2) -> Figure:
    """Return three rows per audit: broken images, spread over attacks and classes, their worst points, what changed.

    Above an image stands its class, above its adversarial image the class that the model gave it. Changes are in full
    colour where they are largest, image by image. Raises LedgerError for an audit that broke no image, or whose file
    of images is damaged.
    """
    across = PER_COLUMN * columns
    side = (WIDTHS[columns] - 0.3) / across
    with styled():
        figure = blank(columns, len(panels) * (3 * (side + 0.16) + 0.25))
        grid = figure.subplots(3 * len(panels), across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, (title, run) in enumerate(panels):
            rows = grid[3 * number : 3 * number + 3]
            for fallen, column in zip(_fallen(run, across), rows.T, strict=False):
                _draw(fallen, column, side)
            _name(rows[:, 0].tolist(), title)
    return figure


def _fallen(run: Run, most: int) -> list[tuple[Shown, ...]]:
    """Return what is shown of up to so many images that an attack broke: those wrong as they are have no change."""
    ids, kept = run.adversarial()
    row_of = {example: row for row, example in enumerate(ids.tolist())}
    places = [place for place in broken_places(run, len(run.ids)) if int(run.ids[place]) in row_of][:most]
    if not places:
        raise LedgerError(f"The audit of {run.spec.name} broke no image: there is nothing to show in a gallery.")
    images, events, threat = run.read_images(), telling_events(run), run.spec.threat
    found: list[tuple[Shown, ...]] = []
    for place in places:
        example, image = int(run.ids[place]), images[place]
        x_adv, predicted = kept[row_of[example]], int(run.events["predicted"][events[example]])
        found.append(
            (
                (colours(image, threat.low, threat.high), class_name(run, int(run.labels[place]))),
                (colours(x_adv, threat.low, threat.high), class_name(run, predicted)),
                (changes(x_adv - image), ""),
            )
        )
    return found


def _draw(shown: Sequence[Shown], column: Sequence[Axes], inches: float) -> None:
    for axes, (pixels, text) in zip(column, shown, strict=True):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(fitted(text, inches, 6), fontsize=6, pad=2)


def _name(first: Sequence[Axes], title: str) -> None:
    for axes, word in zip(first, ROWS, strict=True):
        axes.text(-0.08, 0.5, word, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=6)
    head = first[0]
    head.text(0, 1.28, fitted(title, 3), transform=head.transAxes, ha="left", va="bottom", fontsize=7.5)
