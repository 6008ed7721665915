"""Accuracy against the size of the perturbation, up to one that must break everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from unmask.attacks import cosine_pgd
from unmask.attacks.problem import AttackResult
from unmask.attacks.start import clean as clean_image
from unmask.attacks.start import noised
from unmask.diagnostics.falls import BATCH_SIZE, Falls, at_least, check_sizes, clean, falls
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew

NOISE = 0.01
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def eps_curve(
    sample: Sample,
    *,
    shares: Sequence[float] = SHARES,
    steps: int = 20,
    restarts: int = 1,
    independent: bool = False,
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Attack images at several eps (shares of the threat's) and without a bound; accuracy must fall to chance.

    An unbounded attack that leaves accuracy well above 1/K means that the optimisation, not the bound, stops the attack
    (Athalye et al. 2018; Shafahi et al. 2018, Table 9): fails. Attacks start beside the image, since a random point of
    the whole box is misclassified without any gradient. What a smaller eps broke counts as broken at a larger
    one and is not attacked again. With `independent` every eps is attacked with all images, and an accuracy that rises
    with eps by more than 5 points (and two images) warns: the attack misses what it could find at a smaller eps. Images
    misclassified as they are count as wrong everywhere. `watch` is told how many of how many eps are done; each is a
    part that `keep` keeps.

    Raises AuditError for unusable shares, steps, restarts or batch size, and for a sample without images.
    """
    check_sizes("Shares of eps", *shares)
    at_least(1, steps=steps, restarts=restarts)
    seen, correct = clean(sample, "eps_curve", batch_size, keep)
    sizes = _sizes(sample, shares)
    attack = partial(_attack, steps=steps, restarts=restarts)
    whom = "all images" if independent else "survivors"
    left, parts, survivors = [len(correct)], list[Falls](), correct
    for done, size in enumerate(sizes, start=1):
        attacked = correct if independent else survivors
        name = f"eps_curve, {whom}, eps {size!r} of {sizes}, {steps} steps, {restarts} starts"
        parts.append(keep(name, partial(falls, _within(attacked, size), attack, batch_size)))
        alive = torch.tensor([fell is None for fell in parts[-1]["fell"]], dtype=torch.bool)
        survivors = attacked.select(alive.nonzero().flatten().to(sample.x.device))
        left.append(len(survivors))
        if watch is not None:
            watch(done, len(sizes))
    n, chance = len(sample), 1 / seen["classes"]
    rise = max(count - min(left[: place + 1]) for place, count in enumerate(left))
    blocked, rises = left[-1] > max(1, 1.5 * chance * n), rise > max(2, n / 20)
    status: Status = "fail" if blocked else "warn" if rises else "ok"
    return Finding(
        "eps_curve",
        status,
        f"Without a bound, {left[-1] / n:.0%} of the images survive (chance: {chance:.0%})."
        + (f" At a larger eps up to {rise / n:.0%} more survive than at a smaller one." if rises else ""),
        {
            "eps": [0.0, *sizes],
            "accuracy": [count / n for count in left],
            "n": n,
            "attack": f"cosine_pgd, margin, {steps} steps, {restarts} start{'s' if restarts > 1 else ''}",
            "independent": independent,
            "largest_rise": rise / n,
        },
        ""
        if status == "ok"
        else "The attack's optimisation fails on this model: figures at smaller eps are upper bounds only.",
        seen["forwards"] + sum(part["forwards"] for part in parts),
        sum(part["backwards"] for part in parts),
    )


def _attack(part: Sample, *, steps: int, restarts: int) -> AttackResult:
    return cosine_pgd(
        part.model,
        part.x,
        part.y,
        threat=part.threat,
        steps=steps,
        restarts=restarts,
        generator=part.streams,
        start=noised(clean_image(), NOISE),
    )


def _within(sample: Sample, size: float) -> Sample:
    """Return the sample under a threat of another eps, with streams of its own."""
    return replace(sample.child("eps_curve").child(size), threat=sample.threat.with_eps(size))


def _sizes(sample: Sample, shares: Sequence[float]) -> list[float]:
    """Return the sizes to attack at, ascending; the last reaches every image of the pixel box."""
    threat, free = sample.threat, sample.threat.unbounded(sample.x).eps
    return sorted({min(share * threat.eps, free) for share in shares} | {free})
