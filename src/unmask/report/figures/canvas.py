"""What all figures share: the style sheet, the two widths of print, names that fit, files without a date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.errors import OutputError, unknown
from unmask.files import write_atomic
from unmask.report.words import clip

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Panel = tuple[str, Mapping[str, object]]
"""A model's name and the evidence of one of its findings."""
Columns = Literal[1, 2]

STYLE = Path(__file__).with_name("unmask.mplstyle")
FORMATS = ("pdf", "svg", "png")
WIDTHS = {1: 3.4, 2: 7.0}
EM = 0.56
MOST_TEXT = 200
GUARANTEE = "#B2182B"

# Without them a file holds the moment it was written.
_UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


@contextmanager
def styled() -> Iterator[None]:
    """Draw what is drawn in the block by the style sheet, whatever matplotlib's settings were."""
    from matplotlib import style

    with style.context(["default", str(STYLE)]):
        yield


def blank(columns: Columns, height: float) -> Figure:
    """Return an empty figure as wide as one column (3.4 inches) or two (7), `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTHS[columns], height))


def save(figure: Figure, path: str | Path, format: str | None = None) -> Path:
    """Write a figure as pdf, svg or png (by default what the path ends in); the same figure gives the same bytes.

    Raises OutputError for another format, or where the file cannot be written.
    """
    path = Path(path)
    chosen = format or path.suffix.lstrip(".").lower()
    if chosen not in FORMATS:
        raise OutputError(f"{unknown('figure format', chosen, FORMATS)} End the path in one of them, or name a format.")
    payload = BytesIO()
    with styled():
        figure.savefig(payload, format=chosen, metadata=_UNDATED[chosen])
    write_atomic(path, payload.getvalue())
    return path


def fitted(text: str, inches: float, size: float = 7.5) -> str:
    """Return a name as one line of at most so many inches at a type of `size` points."""
    return clip(one_line(text), max(int(inches * 72 / (EM * size)), 4))


def one_line(text: str) -> str:
    """Return a text as one line that every format can hold: no control characters, no halves of pairs."""
    return " ".join(clip(text, MOST_TEXT).encode("utf-8", "replace").decode().split())


def scale_of(norm: str) -> tuple[float, str]:
    """Return the factor from pixels in [0, 1] to the units shown, and how these are written."""
    return (255.0, " (/255)") if norm == "linf" else (1.0, f" ({norm})")


def short(value: float) -> str:
    """Return a tick's number with three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def thinned(count: int, most: int) -> list[int]:
    """Return at most `most` (2 or more) positions of 0..count-1, evenly spread, with the last where that divides."""
    last = max(count - 1, 1)
    least = -(-last // (most - 1))
    stride = next((step for step in range(least, 2 * least) if last % step == 0), least)
    return list(range(0, count, stride))


def rows_of(count: int, columns: Columns, inches: float) -> tuple[int, int]:
    """Return rows and panels per row for panels at least so wide; one row as long as they fit."""
    per_row = min(count, max(int(WIDTHS[columns] // inches), 1))
    return -(-count // per_row), per_row


def legend_below(figure: Figure, handles: Sequence[Artist], columns: Columns, names: Sequence[str]) -> None:
    """Explain lines below all panels, one name each, as many to a row as fit; a name may begin as it likes."""
    shown = [fitted(name, WIDTHS[columns] - 0.6, 6.5) for name in names]
    longest = max(map(len, shown))
    across = max(int(WIDTHS[columns] * 72 / (EM * 6.5 * longest + 30)), 1)
    figure.legend(handles, shown, loc="outside lower center", ncols=min(across, len(shown)))
