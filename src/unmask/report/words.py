"""Numbers and names as a reader sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

NONE = "–"  # noqa: RUF001 (an en dash is what a table shows for no value)

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_T = TypeVar("_T")


def clip(text: object, limit: int = 80) -> str:
    """Return text of at most `limit` characters, without control characters and marks that reorder a line."""
    # Cut before cleaning as well: a recorded text may be megabytes long.
    found = _CONTROLS.sub(" ", str(text)[: limit + 1])
    return found if len(found) <= limit else found[: limit - 1] + "…"


def first(items: Sequence[_T], limit: int) -> tuple[Sequence[_T], int]:
    """Return the first `limit` items and how many were left out."""
    return items[:limit], max(len(items) - limit, 0)


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as percent with one decimal."""
    return NONE if share is None or not math.isfinite(share) else f"{share:.1%}"


def bound(share: float | None) -> str:
    """Return a share that is only known to be no larger, as percent."""
    return NONE if share is None or not math.isfinite(share) else f"≤ {share:.1%}"


def points(gap: float | None) -> str:
    """Return a difference of two shares as percentage points with one decimal."""
    return NONE if gap is None or not math.isfinite(gap) else f"{100 * gap:.1f} points"


def signed_points(gap: float) -> str:
    """Return a difference of two shares as percentage points with its sign and one decimal."""
    return f"{100 * gap:+.1f}".replace("-", "\N{MINUS SIGN}")


def chance(p: float) -> str:
    """Return a p value with two digits, or as smaller than one in a thousand."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def interval(low: float, high: float) -> str:
    """Return the interval of a share as percent, as the headline writes it."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def number(value: float) -> str:
    """Return a number with four significant digits, thousands separated."""
    if isinstance(value, int):
        return clip(f"{value:,}", 24)
    if not math.isfinite(value):
        return NONE
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:,.4g}"


def value(found: object, limit: int = 160) -> str:
    """Return a recorded value (a number, text, list or dict) as one short line."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, int | float):
        return number(found)
    if found is None:
        return NONE
    if isinstance(found, str):
        return clip(found, limit)
    if isinstance(found, Mapping):
        shown, hidden = first(list(found.items()), 8)
        parts = [f"{clip(name, 40)}: {value(item, 40)}" for name, item in shown]
    else:
        items = list(found) if isinstance(found, Sequence) else []
        shown_items, hidden = first(items, 8)
        parts = [f"({value(item, 40)})" if isinstance(item, list) else value(item, 40) for item in shown_items]
    more = f" … ({hidden:,} more)" if hidden else ""
    return clip(", ".join(parts), limit) + more


def per_image(passes: int, n: int) -> str:
    """Return passes divided by the number of images, with one decimal where there are few."""
    each = passes / n
    return f"{each:,.0f}" if each >= 100 or each == 0 else f"{each:,.1f}"


def duration(seconds: float) -> str:
    """Return a time span in the unit that fits it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind each one that occurred before, so that every one is different."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, count = name, 1
        while candidate in taken:
            count += 1
            candidate = f"{name} ({count})"
        taken.add(candidate)
        found.append(candidate)
    return found
