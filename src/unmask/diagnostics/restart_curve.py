"""Has the attack converged in its number of restarts? (Shafahi et al. 2018, Table 10.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

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
    still_falling,
)
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew

RESTARTS = (1, 2, 5, 10, 20)


def restart_curve(
    sample: Sample,
    *,
    restarts: Sequence[int] = RESTARTS,
    steps: int = USUAL_STEPS,
    step_size: float | None = None,
    loss: str = "cross_entropy",
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Attack with PGD from more and more uniform random starts; an image counts as wrong once any start breaks it.

    One run of the most restarts, each on the survivors of those before, gives the whole curve. `step_size` is in pixels
    (None: 4 eps / (3 steps)), `loss` a name of `unmask.losses.LOSSES`. Images misclassified as they are count as wrong
    everywhere. Warns where the second half of the restarts broke more than two images and more than 5 points. `watch`
    is told how many of how many restarts are done; each is a part that `keep` keeps.

    Raises AuditError for an unknown loss, unusable restarts, steps, step size or batch size, and a sample without
    images.
    """
    counts = sorted({int(count) for count in restarts})
    most = max(counts, default=0)
    at_least(2, most_restarts=most)
    at_least(1, restarts=counts[0], steps=steps)
    size = usual_step_size(sample.threat, steps) if step_size is None else step_size
    check_sizes("Step size in pixels", size)
    attack = pgd_run(size, steps, loss=loss_of(loss))
    seen, survivors = clean(sample, "restart_curve", batch_size, keep)
    left, parts = [len(survivors)], list[Falls]()
    for restart in range(most):
        starts = survivors.child("restart_curve", restart)
        name = f"restart_curve, {loss}, {steps} steps of {size!r}, restart {restart}"
        parts.append(keep(name, partial(falls, starts, attack, batch_size)))
        alive = [iterate is None for iterate in parts[-1]["fell"]]
        survivors = survivors.select(torch.tensor(alive, dtype=torch.bool).nonzero().flatten().to(sample.x.device))
        left.append(len(survivors))
        if watch is not None:
            watch(restart + 1, most)
    n, half, end = len(sample), left[most // 2], left[most]
    status: Status = "warn" if still_falling(half, end, n) else "ok"
    return Finding(
        "restart_curve",
        status,
        f"PGD-{steps} leaves {half / n:.1%} after {most // 2:,} restarts and {end / n:.1%} after {most:,}"
        + (": it has not converged." if status == "warn" else "."),
        {
            "restarts": counts,
            "accuracy": [left[count] / n for count in counts],
            "steps": steps,
            "step_size": size,
            "n": n,
            "attack": f"pgd, {loss.replace('_', '-')}, {steps} steps of {size:.3g}, uniform starts",
        },
        "Give the attack more restarts before you report its figure." if status == "warn" else "",
        seen["forwards"] + sum(part["forwards"] for part in parts),
        sum(part["backwards"] for part in parts),
    )
