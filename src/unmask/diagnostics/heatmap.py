"""Does the usual attack's figure hang on its step size and its number of steps? (Mosbach et al. 2018, heatmaps.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from unmask.attacks.pgd import usual_step_size
from unmask.attacks.start import Start, corners, uniform
from unmask.attacks.start import clean as clean_start
from unmask.diagnostics.falls import (
    BATCH_SIZE,
    USUAL_STEPS,
    Falls,
    at_least,
    check_sizes,
    clean,
    falls,
    pgd_run,
    standing,
)
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew
from unmask.errors import AuditError, unknown
from unmask.threat import ThreatModel

STARTS: dict[str, Callable[[], Start]] = {"uniform": uniform, "corners": corners, "clean": clean_start}
VALUES = 37
COARSE = 6
SMALL, LARGE = 5, 15

Number = TypeVar("Number", int, float)
Grid = tuple[tuple[float, ...], tuple[int, ...]]


def full_grid(threat: ThreatModel) -> Grid:
    """Return the paper's 37 step sizes (pixels) and 37 numbers of steps.

    Step sizes run evenly from 2.5/76.5 of eps to eps (at eps 0.3: from 2.5/255 to 76.5/255), steps from 40 to 400.
    """
    sizes = (2.5 + (76.5 - 2.5) * i / (VALUES - 1) for i in range(VALUES))
    return tuple(size / 76.5 * threat.eps for size in sizes), tuple(range(40, 401, 10))


def coarse_grid(threat: ThreatModel) -> Grid:
    """Return every sixth value of the paper's grid, both ends among them: 7 step sizes and 7 numbers of steps."""
    step_sizes, steps = full_grid(threat)
    return step_sizes[::COARSE], steps[::COARSE]


def heatmap(
    sample: Sample,
    *,
    step_sizes: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    usual: tuple[int, float | None] = (USUAL_STEPS, None),
    start: str = "uniform",
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Attack with PGD on the cross-entropy from a single start, for every step size (pixels) and number of steps.

    One run of the most steps per step size gives its whole row: the accuracy after t steps is the share of images not
    misclassified at iterates 0 to t. Broken images leave at once; every step size begins at the same start of an image;
    images misclassified as they are count as wrong everywhere. Without sizes or steps, those of `coarse_grid`.

    `usual` is a number of steps and a step size (None: 4 eps / (3 steps)): the nearest cell of the grid
    stands for it. Fails where another cell leaves 15 points (and three images) fewer, warns from 5 points (and two):
    then the usual setting hides breaks. `together` is what all cells leave together. `start`: "uniform", "corners" or
    "clean". `watch` is told how many of how many step sizes are done; each is a part that `keep` keeps.

    Raises AuditError for an unusable grid, start or batch size and for a sample without images.
    """
    sizes, counts = _grid(sample.threat, step_sizes, steps)
    if start not in STARTS:
        raise AuditError(unknown("start", start, STARTS))
    seen, correct = clean(sample, "heatmap", batch_size, keep)
    rows: list[Falls] = []
    for done, size in enumerate(sizes, start=1):
        run = partial(_row, correct, size, counts[-1], STARTS[start](), batch_size)
        rows.append(keep(f"heatmap, step size {size!r}, {counts[-1]} steps, {start} start", run))
        if watch is not None:
            watch(done, len(sizes))
    n = len(sample)
    left = {
        (count, size): standing(row["fell"], count) for size, row in zip(sizes, rows, strict=True) for count in counts
    }
    at = _nearest(counts, usual[0]), _nearest(sizes, _usual_size(sample.threat, usual))
    lowest_at = min(left, key=lambda cell: (left[cell], cell))
    together = sum(all(iterate is None for iterate in image) for image in zip(*(r["fell"] for r in rows), strict=True))
    status = _status(left[at] - left[lowest_at], n)
    return Finding(
        "heatmap",
        status,
        f"PGD leaves {left[at] / n:.1%} after {at[0]} steps of {at[1]:.3g}, and {left[lowest_at] / n:.1%} after "
        f"{lowest_at[0]} steps of {lowest_at[1]:.3g}.",
        {
            "step_sizes": list(sizes),
            "steps": list(counts),
            "accuracy": [[left[count, size] / n for count in counts] for size in sizes],
            "usual": list(at),
            "at_usual": left[at] / n,
            "lowest": left[lowest_at] / n,
            "lowest_at": list(lowest_at),
            "together": together / n,
            "n": n,
            "eps": sample.threat.eps,
            "attack": f"pgd, cross-entropy, 1 {start} start",
        },
        ""
        if status == "ok"
        else "Do not report the usual setting's figure: search step sizes and steps, and take the worst per image.",
        seen["forwards"] + sum(row["forwards"] for row in rows),
        sum(row["backwards"] for row in rows),
    )


def _row(sample: Sample, step_size: float, steps: int, start: Start, batch_size: int) -> Falls:
    return falls(sample.child("heatmap"), pgd_run(step_size, steps, start=start), batch_size)


def _grid(threat: ThreatModel, step_sizes: Sequence[float] | None, steps: Sequence[int] | None) -> Grid:
    sizes, counts = coarse_grid(threat)
    sizes = sizes if step_sizes is None else tuple(sorted({float(size) for size in step_sizes}))
    counts = counts if steps is None else tuple(sorted({int(count) for count in steps}))
    check_sizes("Step sizes in pixels", *sizes)
    if not counts:
        raise AuditError("There are no numbers of steps in the heatmap's grid; give at least one.")
    at_least(1, steps=counts[0])
    return sizes, counts


def _usual_size(threat: ThreatModel, usual: tuple[int, float | None]) -> float:
    steps, size = usual
    return usual_step_size(threat, steps) if size is None else size


def _nearest(values: Sequence[Number], value: float) -> Number:
    return min(values, key=lambda known: abs(known - value))


def _status(hidden: int, n: int) -> Status:
    if hidden >= 3 and 100 * hidden >= LARGE * n:
        return "fail"
    return "warn" if hidden >= 2 and 100 * hidden >= SMALL * n else "ok"
