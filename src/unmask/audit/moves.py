"""The attacks that the default audit chooses among: short, each strong where the others are weak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unmask.attacks import cosine_pgd, fab, random_noise, spsa, square
from unmask.attacks.problem import AttackResult, Problem
from unmask.attacks.square import searched
from unmask.attacks.start import Start, Started, at, noised, output_diversified
from unmask.attacks.straight_through import StraightThrough
from unmask.attacks.targets import likeliest_target
from unmask.audit.plan import PlannedAttack, Task
from unmask.losses import margin, scale_invariant
from unmask.threat import ThreatModel

STEPS = 20
MOST = 1000


def noise(draws: int = 5, restarts: int = MOST) -> PlannedAttack:
    """Return a few random corners of the ball."""
    return _queries(
        "noise",
        f"{draws} random corners of the ball",
        draws + 1,
        lambda task: task.attack(random_noise, restarts=draws),
        restarts=restarts,
        draws=draws,
    )


def margin_ascent(steps: int = STEPS) -> PlannedAttack:
    """Return the margin loss with steps that shrink from 2 eps, from a random corner."""
    return _ascent(
        "margin", f"margin loss, {steps} steps that shrink from 2 eps, momentum, from a random corner", steps
    )


def scale_invariant_ascent(steps: int = STEPS) -> PlannedAttack:
    """Return the same ascent on the cross-entropy of rescaled logits."""
    return _ascent(
        "scale-invariant",
        f"cross-entropy of rescaled logits, {steps} steps that shrink from 2 eps, momentum",
        steps,
        lambda task: {"loss": scale_invariant},
        loss="scale_invariant",
    )


def diversified(steps: int = STEPS) -> PlannedAttack:
    """Return the margin ascent from starts that differ in the output (ODI)."""
    return _ascent(
        "diversified",
        f"margin loss, {steps} steps that shrink from 2 eps, starts that differ in the output",
        steps,
        lambda task: {"start": output_diversified()},
        extra=4,
        start="output_diversified",
    )


def targeted(steps: int = STEPS, *, classes: int) -> PlannedAttack:
    """Return the margin ascent against one wrong class per restart, likeliest first."""
    ascent = _ascent(
        "targeted",
        f"margin against one wrong class per restart, likeliest first, {steps} shrinking steps",
        steps,
        lambda task: {"target": _target(task)},
        extra=1,
        target="likeliest, by restart",
    )
    return _one_class_per_restart(ascent, classes)


def smoothed(steps: int = STEPS, later: int = 50, noise: float = 1.0) -> PlannedAttack:
    """Return the ascent for jagged surfaces: every gradient averaged with one more, taken at a noisy point.

    The noise has the size of `noise` eps. From the third restart on it takes `later` steps: what two short runs left
    needs patience.
    """

    def length(restart: int) -> int:
        return steps if restart < 2 else later

    ascent = _ascent(
        "smoothed",
        f"margin along gradients averaged over noise, {steps} (later {later}) steps, diversified starts",
        steps,
        lambda task: {
            "steps": length(task.restart),
            "step_share": 1.0,
            "momentum": None,
            "smoothing": noise * pixel_scale(task.threat, task.x),
            "start": output_diversified(),
        },
        step_share=1.0,
        momentum=None,
        later_steps=later,
        smoothing="eps" if noise == 1 else f"{noise:.3g} eps",
        start="output_diversified",
    )
    return replace(ascent, cost=lambda restart: 4 * length(restart) + 6)


def polish(steps: int = STEPS // 2) -> PlannedAttack:
    """Return a short margin ascent from the best point so far, moved by a little noise."""
    return _ascent(
        "polish",
        f"margin loss, {steps} shrinking steps from the best point so far, moved by noise",
        steps,
        lambda task: {"step_share": 0.5, "start": noised(at(task.best), 0.25 * pixel_scale(task.threat, task.x))},
        step_share=0.5,
        noise="eps/4",
        start="best",
    )


def neighbours(steps: int = STEPS // 2, donors: int = 8) -> PlannedAttack:
    """Return a short ascent from the best of the perturbations that broke other images of the class."""
    ascent = _ascent(
        "neighbours",
        f"{steps} shrinking steps from the best of {donors} perturbations that broke others of the class",
        steps,
        lambda task: {"step_share": 1.0, "start": best_of(task.donors)},
        extra=donors,
        step_share=1.0,
        start="donors",
        donors=donors,
    )
    return replace(ascent, donors=donors)


def coarse_to_fine(queries: int = 250, steps: int = STEPS // 2) -> PlannedAttack:
    """Return random search by large squares, then a short ascent from its best: patterns that no gradient finds."""
    return _ascent(
        "coarse-to-fine",
        f"{queries} queries of Square from stripes, then {steps} shrinking steps from its best point",
        steps,
        lambda task: {"step_share": 0.5, "start": searched(queries)},
        extra=queries,
        step_share=0.5,
        queries=queries,
        window=0.8,
    )


def stripes_search(queries: int = 200) -> PlannedAttack:
    """Return random search by squares from stripes, large ones first."""
    return _queries(
        "stripes",
        f"no gradients: {queries} queries of Square from stripes",
        queries,
        lambda task: task.attack(square, queries=queries),
        queries=queries,
        window=0.8,
    )


def square_search(queries: int = 100) -> PlannedAttack:
    """Return random search by square windows from the best point so far; each restart begins with smaller ones."""
    return _queries(
        "square",
        f"no gradients: {queries} queries, random squares on the best point so far",
        queries,
        lambda task: task.attack(
            square, queries=queries, window=max(0.4 / 2**task.restart, 0.025), start=at(task.best)
        ),
        queries=queries,
        window="0.4, halved by restart to 0.025",
        start="best",
    )


def boundary_walk(steps: int = 50, *, classes: int) -> PlannedAttack:
    """Return FAB towards one wrong class per restart, likeliest first: it walks along the boundary, not up the loss."""
    walk = PlannedAttack(
        "boundary",
        lambda task: task.attack(fab, steps=steps, target=_target(task)),
        settings={"attack": "fab", "steps": steps, "target": "likeliest, by restart"},
        description=f"{steps} steps of FAB towards one wrong class per restart, likeliest first",
        cost=lambda restart: 3 * steps + 6,
    )
    return _one_class_per_restart(walk, classes)


def query_ascent(steps: int = 10, samples: int = 20) -> PlannedAttack:
    """Return Adam steps along gradients estimated from queries of the size of eps."""

    def run(task: Task) -> AttackResult:
        scale = pixel_scale(task.threat, task.x)
        return task.attack(spsa, steps=steps, step_size=2 * scale / steps, delta=scale, samples=samples)

    return _queries(
        "spsa",
        f"no gradients: {steps} Adam steps along estimates from {2 * samples} queries each",
        steps * (2 * samples + 1) + 1,
        run,
        steps=steps,
        samples=samples,
        delta="eps",
    )


def straight_through(attack: PlannedAttack, name: str = "") -> PlannedAttack:
    """Return the attack, under another name if one is given, with gradients that pass operations that have none."""
    return replace(
        attack,
        name=name or attack.name,
        run=lambda task: attack.run(replace(task, model=StraightThrough(task.model))),
        settings={**attack.settings, "gradients": "straight-through"},
        description=f"{attack.description}; gradients pass rounding, thresholds and detached branches",
    )


def best_of(perturbations: Tensor) -> Start:
    """Start at the perturbation (B, D, ...) with the highest margin; one forward each."""

    @torch.no_grad()
    def start(problem: Problem) -> Started:
        points = [problem.threat.project(problem.x + move, problem.x) for move in perturbations.unbind(1)]
        if not points:
            return Started(problem.threat.corner(problem.x, problem.streams))
        values = torch.stack([margin(problem.logits(point), problem.y) for point in points])
        chosen = values.argmax(0)
        return Started(torch.stack(points)[chosen, torch.arange(len(problem.x), device=chosen.device)], len(points))

    return start


def pixel_scale(threat: ThreatModel, x: Tensor) -> float:
    """Return the size of a typical pixel's change when the whole ball is used, in pixels."""
    pixels = x[0].numel()
    exponent = {"linf": 0.0, "l2": 0.5, "l1": 1.0}[threat.norm]
    return threat.eps / float(pixels**exponent)


def _ascent(
    name: str,
    description: str,
    steps: int,
    chosen: Callable[[Task], dict[str, Any]] = lambda task: {},
    *,
    extra: int = 0,
    **record: object,
) -> PlannedAttack:
    """Return `cosine_pgd` with what `chosen` says of a task, at `extra` evaluations beside its steps and start."""
    settings = {"loss": "margin", "steps": steps, "step_share": 2.0, "momentum": 0.75, **record}
    return PlannedAttack(
        name,
        lambda task: task.attack(cosine_pgd, **{"steps": steps, **chosen(task)}),
        MOST,
        settings=settings,
        description=description,
        cost=lambda restart: 2 * steps + 1 + extra,
    )


def _queries(
    name: str,
    description: str,
    cost: int,
    run: Callable[[Task], AttackResult],
    *,
    restarts: int = MOST,
    **record: object,
) -> PlannedAttack:
    """Return a search that makes no backward pass."""
    return PlannedAttack(
        name,
        run,
        restarts,
        settings=record,
        description=description,
        cost=lambda restart: cost,
        gradients=False,
    )


def _one_class_per_restart(attack: PlannedAttack, classes: int) -> PlannedAttack:
    """Return an attack on `_target(task)` with a restart per target, charged for the forward that chooses it."""

    def run(task: Task) -> AttackResult:
        found = attack.run(task)
        return replace(found, forwards=found.forwards + 1)

    return replace(attack, run=run, restarts=min(9, classes - 1))


def _target(task: Task) -> Tensor:
    return likeliest_target(task.model, task.x, task.y, rank=task.restart + 1)
