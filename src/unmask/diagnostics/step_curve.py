"""Has the attack converged in its number of steps? (Shafahi et al. 2018, Table 11.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from unmask.attacks.pgd import usual_step_size
from unmask.diagnostics.falls import (
    BATCH_SIZE,
    USUAL_STEPS,
    Falls,
    at_least,
    check_sizes,
    clean,
    falls,
    loss_of,
    pgd_run,
    standing,
    still_falling,
)
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew

STEPS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


def step_curve(
    sample: Sample,
    *,
    steps: Sequence[int] = STEPS,
    step_size: float | None = None,
    loss: str = "cross_entropy",
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Attack with single-start PGD of more and more steps of one size, in pixels (None: a thirtieth of eps).

    One run of the most steps gives the whole curve: the accuracy after t steps is the share of images not misclassified
    at iterates 0 to t. Images misclassified as they are count as wrong everywhere. `loss` is a name of
    `unmask.losses.LOSSES`; the paper climbs the margin. Warns where the second half of the steps broke more than two
    images and more than 5 points. `watch` is told how many of how many batches are done; each is a part that `keep`
    keeps.

    Raises AuditError for an unknown loss, unusable steps, step size or batch size, and a sample without images.
    """
    counts = sorted({int(count) for count in steps})
    most = max(counts, default=0)
    at_least(2, most_steps=most)
    at_least(1, steps=counts[0])
    size = usual_step_size(sample.threat, USUAL_STEPS) if step_size is None else step_size
    check_sizes("Step size in pixels", size)
    attack = pgd_run(size, most, loss=loss_of(loss))
    seen, correct = clean(sample, "step_curve", batch_size, keep)
    parts: list[Falls] = []
    chunks = correct.child("step_curve").batches(batch_size)
    for done, chunk in enumerate(chunks, start=1):
        name = f"step_curve, {loss}, {most} steps of {size!r}, images {chunk.ids[0]} to {chunk.ids[-1]}"
        parts.append(keep(name, partial(falls, chunk, attack, batch_size)))
        if watch is not None:
            watch(done, len(chunks))
    fell = [iterate for part in parts for iterate in part["fell"]]
    n, half, end = len(sample), standing(fell, most // 2), standing(fell, most)
    status: Status = "warn" if still_falling(half, end, n) else "ok"
    return Finding(
        "step_curve",
        status,
        f"PGD leaves {half / n:.1%} after {most // 2:,} steps and {end / n:.1%} after {most:,}"
        + (": it has not converged." if status == "warn" else "."),
        {
            "steps": counts,
            "accuracy": [standing(fell, count) / n for count in counts],
            "step_size": size,
            "n": n,
            "attack": f"pgd, {loss.replace('_', '-')}, steps of {size:.3g}, 1 uniform start",
        },
        "Give the attack more steps, or larger ones, before you report its figure." if status == "warn" else "",
        seen["forwards"] + sum(part["forwards"] for part in parts),
        sum(part["backwards"] for part in parts),
    )
