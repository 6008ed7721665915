"""Whether a reproduced table says what the published one says: the order of its rows, and a paragraph about both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

from unmask.ledger.comparison import CellEntry, Comparison
from unmask.report.words import clip

AGREES = 0.6  # Kendall's tau from which on an order is said to agree
FEWEST = 3  # pairs of figures that make an order
FEWEST_IMAGES = 30
MOST_SWAPS = 2  # pairs of rows named where it does not agree

Pair = tuple[str, float, float]  # row, published, measured


def taus(comparison: Comparison) -> dict[str, float | None]:
    """Return Kendall's tau-b, in [-1, 1], of the published against the measured figures of each published column.

    Rows whose published figure is doubted, absent or only drawn, and rows that were not measured, are left out. None
    where fewer than three rows remain, or where all published or all measured figures are alike.

    Kendall, "The treatment of ties in ranking problems", 1945.
    """
    return {column: _tau(_pairs(comparison, column)) for column in published_columns(comparison)}


def published_columns(comparison: Comparison) -> tuple[str, ...]:
    """Return the columns that the paper has, in its order."""
    held = dict.fromkeys([*comparison.columns, *(cell.column for cell in comparison.cells)])
    return tuple(column for column in held if column not in comparison.modern)


def comparable(comparison: Comparison) -> list[CellEntry]:
    """Return the cells with a published figure that is not doubted, beside one measured on 30 images or more."""
    return [
        cell
        for cell in comparison.cells
        if cell.published is not None
        and cell.measured is not None
        and cell.n >= FEWEST_IMAGES
        and not cell.doubt
        and cell.column not in comparison.modern
    ]


def agrees(cell: CellEntry) -> bool:
    """Return whether a published figure lies within the interval of the measured one."""
    return (
        cell.published is not None
        and cell.interval is not None
        and cell.interval[0] <= cell.published <= cell.interval[1]
    )


def order_sentence(comparison: Comparison) -> str:
    """Return in words whether the rows stand in the published order, column by column.

    Where they do not (tau below 0.6), the rows that changed places by most are named.
    """
    found = taus(comparison)
    agreeing = {column: tau for column, tau in found.items() if tau is not None and tau >= AGREES}
    others = {column: tau for column, tau in found.items() if tau is not None and tau < AGREES}
    silent = [column for column, tau in found.items() if tau is None]
    sentences = []
    if agreeing:
        listed = ", ".join(f"{tau:.2f} ({clip(column, 60)})" for column, tau in agreeing.items())
        sentences.append(f"The order of {_rows(comparison, agreeing)} agrees with the paper: tau {listed}.")
    sentences += [_disagreement(comparison, column, tau) for column, tau in others.items()]
    if silent and comparison.cells:
        listed = ", ".join(clip(column, 60) for column in silent)
        sentences.append(
            f"No order can be compared, for want of three figures that differ, rest on {FEWEST_IMAGES} images or more "
            f"and are no doubtful target: {listed}."
        )
    return " ".join(sentences)


def reading(comparison: Comparison) -> str:
    """Return a paragraph: what the table shows, whether its order holds, how many figures lie within our intervals."""
    return " ".join(part for part in (comparison.reading, order_sentence(comparison), _within(comparison)) if part)


def _tau(pairs: Sequence[Pair]) -> float | None:
    # Loaded only where an order is compared: scipy.stats takes about a second.
    from scipy.stats import kendalltau

    if len(pairs) < FEWEST:
        return None
    tau = float(kendalltau([published for _, published, _ in pairs], [measured for *_, measured in pairs]).statistic)
    return tau if math.isfinite(tau) else None


def _pairs(comparison: Comparison, column: str) -> list[Pair]:
    return [
        (cell.row, cell.published, cell.measured)
        for cell in comparable(comparison)
        if cell.column == column and cell.published is not None and cell.measured is not None
    ]


def _rows(comparison: Comparison, columns: Iterable[str]) -> str:
    """Return "the 8 rows" where as many rows stand in all these columns, "the rows" otherwise."""
    counts = {len(_pairs(comparison, column)) for column in columns}
    return f"the {counts.pop()} rows" if len(counts) == 1 else "the rows"


def _disagreement(comparison: Comparison, column: str, tau: float) -> str:
    pairs = _pairs(comparison, column)
    begun = (
        f"The order of {_rows(comparison, [column])} differs from the paper's under {clip(column, 60)}: tau {tau:.2f}"
    )
    swapped = [pair for pair in combinations(pairs, 2) if _swap(*pair) > 0]
    named = [_named(*pair) for pair in sorted(swapped, key=lambda pair: -_swap(*pair))[:MOST_SWAPS]]
    return f"{begun}; most of all {'; '.join(named)}." if named else f"{begun}; ties, not changes of place, are why."


def _swap(one: Pair, other: Pair) -> float:
    """Return how clearly two rows changed places: the smaller of their two distances, 0 where they did not."""
    published, measured = one[1] - other[1], one[2] - other[2]
    return min(abs(published), abs(measured)) if published * measured < 0 else 0.0


def _named(one: Pair, other: Pair) -> str:
    ahead, behind = (one, other) if one[1] > other[1] else (other, one)
    published = f"{100 * ahead[1]:.1f} and {100 * behind[1]:.1f}"
    ours = f"{100 * ahead[2]:.1f} and {100 * behind[2]:.1f}"
    return f'"{clip(ahead[0], 60)}" no longer leads "{clip(behind[0], 60)}" (published {published}, ours {ours})'


def _within(comparison: Comparison) -> str:
    with_interval = [cell for cell in comparable(comparison) if cell.interval is not None]
    if not with_interval:
        return ""
    within = sum(agrees(cell) for cell in with_interval)
    return f"{within} of {len(with_interval)} published figures lie within the 95% interval of ours."
