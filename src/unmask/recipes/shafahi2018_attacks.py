"""Shafahi et al. 2018, Appendices F to H: the stronger attacks of Tables 9, 10 and 11, a row each.

The paper runs them on one CIFAR-10 model; the analogues run the same rows on its counterpart on MNIST.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unmask.recipes.recipe import Claim, published
from unmask.recipes.tables import Attacked

COLUMN = "accuracy"
# Table 9: steps, step size and eps in 1/255; Table 10: from 1 restart on; Table 11: steps. Accuracies in percent.
UNBOUNDED = (
    (30, 2, 50, 14.48),
    (40, 2, 60, 9.02),
    (50, 3, 100, 2.07),
    (50, 4, 150, 0.22),
    (100, 4, 150, 0.13),
    (200, 2, 255, 0.00),
)
RESTARTS = (52.3, 50.84, 50.43, 50.24, 50.21, 50.13, 50.04, 49.86, 49.86)
STEPS = ((20, 49.73), (40, 45.33), (100, 42.36), (400, 41.58), (1000, 40.94))

Row = tuple[Mapping[str, Any], float]

ROWS: Mapping[str, Mapping[str, Row]] = {
    "Table 9": {
        f"{steps} steps of {size}/255, eps {eps}/255": (
            {"steps": steps, "step_size": size / 255, "eps": f"{eps}/255"},
            value,
        )
        for steps, size, eps, value in UNBOUNDED
    },
    "Table 10": {
        f"{count} restart{'s' if count > 1 else ''}": ({"restarts": count}, value)
        for count, value in enumerate(RESTARTS, start=1)
    },
    "Table 11": {f"{steps} steps": ({"steps": steps}, value) for steps, value in STEPS},
}


def measures(table: str, usual: Attacked) -> dict[str, Attacked]:
    """Return the attack of every row of one of the three tables: the usual one with the row's settings."""
    return {row: replace(usual, **settings) for row, (settings, _) in ROWS[table].items()}


def claims(paper: str) -> tuple[Claim, ...]:
    """Return the figures of the three tables, which belong to the CIFAR-10 model with beta 10, sigma 30, k 160k."""
    return tuple(
        claim
        for table, rows in ROWS.items()
        for row, (_, value) in rows.items()
        for claim in published(paper, table, row, {COLUMN: value})
    )


def analogue(table: str) -> str:
    """Return what a table is called on MNIST."""
    return f"{table} (MNIST analogue)"


def analogous_claims(paper: str) -> tuple[Claim, ...]:
    """Return the same figures for the tables' analogues on MNIST, whose shape they are compared with."""
    return tuple(replace(claim, table=analogue(claim.table)) for claim in claims(paper))
