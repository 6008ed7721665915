"""Two models on the same images: which survive where, and whether the difference is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from unmask.ledger import Run
from unmask.ledger.queries import statuses
from unmask.report.table import SummaryRow
from unmask.report.words import first

MOST_PAIRS = 60


@dataclass(frozen=True)
class Paired:
    """How the same images fare under two models, in numbers of images; `low` and `high` bound the difference at 95%.

    `difference` is the first model's measured accuracy less the second's, in [-1, 1]; `p` that of McNemar's test.
    """

    one: str
    other: str
    both: int
    only_one: int
    only_other: int
    neither: int
    difference: float
    low: float
    high: float
    p: float


def paired(runs: Sequence[Run], rows: Sequence[SummaryRow]) -> tuple[tuple[Paired, ...], int]:
    """Return a comparison for each pair of finished runs on the same images under the same threat, 60 at the most.

    Also returned is how many pairs were left out for their number.
    """
    whole = [(run, row) for run, row in zip(runs, rows, strict=True) if not row.refusal]
    pairs = [(one, other) for one, other in combinations(whole, 2) if _comparable(one[0], other[0])]
    shown, hidden = first(pairs, MOST_PAIRS)
    return tuple(_paired(one, other) for one, other in shown), hidden


def _comparable(one: Run, other: Run) -> bool:
    same = one.spec.data.fingerprint == other.spec.data.fingerprint and one.spec.terms == other.spec.terms
    return same and np.array_equal(np.sort(one.ids), np.sort(other.ids))


def _paired(one: tuple[Run, SummaryRow], other: tuple[Run, SummaryRow]) -> Paired:
    a, b = (statuses(run)[np.argsort(run.ids)] == "survived" for run, _ in (one, other))
    only_one, only_other = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = difference_interval(only_one, only_other, len(a))
    return Paired(
        one[1].name,
        other[1].name,
        int((a & b).sum()),
        only_one,
        only_other,
        int((~a & ~b).sum()),
        (only_one - only_other) / len(a),
        low,
        high,
        mcnemar(only_one, only_other),
    )


def difference_interval(only_one: int, only_other: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of the difference of two paired shares of `n` images, within [-1, 1]; `z` = 1.96 means 95%.

    Wald's interval with half an image added to each of the four cells (Agresti & Min 2005, Section 2).
    """
    b, c, m = only_one + 0.5, only_other + 0.5, n + 2
    centre = (b - c) / m
    half = z * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return max(centre - half, -1.0), min(centre + half, 1.0)


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the exact two-sided p value of McNemar's test (1947) that neither model survives more of the images."""
    from scipy.stats import binomtest

    either = only_one + only_other
    return float(binomtest(only_one, either).pvalue) if either else 1.0
