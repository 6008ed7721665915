"""The attacks that the default audit chooses among: short, each strong where the others are weak."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks import cosine_pgd, fab, random_noise, spsa, square
from unmask.attacks.problem import AttackResult, Problem
from unmask.attacks.square import searched
from unmask.attacks.start import Start, Started, at, noised, output_diversified
from unmask.attacks.targets import likeliest_target
from unmask.audit.plan import PlannedAttack, Task
from unmask.losses import margin, scale_invariant
from unmask.threat import ThreatModel

STEPS = 20
MOST = 1000


def noise(draws: int = 5, restarts: int = MOST) -> PlannedAttack:
    """Return a few random corners of the ball."""

    def run(task: Task) -> AttackResult:
        return random_noise(task.model, task.x, task.y, threat=task.threat, restarts=draws, generator=task.streams)

    description = f"{draws} random corners of the ball"
    return PlannedAttack(
        "noise",
        run,
        restarts,
        settings={"draws": draws},
        description=description,
        cost=lambda restart: draws + 1,
        gradients=False,
    )


def margin_ascent(steps: int = STEPS) -> PlannedAttack:
    """Return the margin loss with steps that shrink from 2 eps, from a random corner."""

    def run(task: Task) -> AttackResult:
        return cosine_pgd(task.model, task.x, task.y, threat=task.threat, steps=steps, generator=task.streams)

    return PlannedAttack(
        "margin",
        run,
        MOST,
        settings={"loss": "margin", "steps": steps, "step_share": 2.0, "momentum": 0.75},
        description=f"margin loss, {steps} steps that shrink from 2 eps, momentum, from a random corner",
        cost=lambda restart: 2 * steps + 1,
    )


def scale_invariant_ascent(steps: int = STEPS) -> PlannedAttack:
    """Return the same ascent on the cross-entropy of rescaled logits."""

    def run(task: Task) -> AttackResult:
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            loss=scale_invariant,
            generator=task.streams,
        )

    return PlannedAttack(
        "scale-invariant",
        run,
        MOST,
        settings={"loss": "scale_invariant", "steps": steps, "step_share": 2.0, "momentum": 0.75},
        description=f"cross-entropy of rescaled logits, {steps} steps that shrink from 2 eps, momentum",
        cost=lambda restart: 2 * steps + 1,
    )


def diversified(steps: int = STEPS) -> PlannedAttack:
    """Return the margin ascent from starts that differ in the output (ODI)."""

    def run(task: Task) -> AttackResult:
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            start=output_diversified(),
            generator=task.streams,
        )

    return PlannedAttack(
        "diversified",
        run,
        MOST,
        settings={"loss": "margin", "steps": steps, "step_share": 2.0, "momentum": 0.75, "start": "output_diversified"},
        description=f"margin loss, {steps} steps that shrink from 2 eps, starts that differ in the output",
        cost=lambda restart: 2 * steps + 5,
    )


def targeted(steps: int = STEPS, *, classes: int) -> PlannedAttack:
    """Return the margin ascent against one wrong class per restart, likeliest first."""

    def run(task: Task) -> AttackResult:
        target = likeliest_target(task.model, task.x, task.y, rank=task.restart + 1)
        found = cosine_pgd(
            task.model, task.x, task.y, threat=task.threat, steps=steps, target=target, generator=task.streams
        )
        return replace(found, forwards=found.forwards + 1)

    return PlannedAttack(
        "targeted",
        run,
        min(9, classes - 1),
        settings={
            "loss": "margin",
            "steps": steps,
            "step_share": 2.0,
            "momentum": 0.75,
            "target": "likeliest, by restart",
        },
        description=f"margin against one wrong class per restart, likeliest first, {steps} shrinking steps",
        cost=lambda restart: 2 * steps + 2,
    )


def smoothed(steps: int = STEPS, later: int = 50) -> PlannedAttack:
    """Return the ascent for jagged surfaces: every gradient averaged with one more, taken at a noisy point.

    From the third restart on it takes `later` steps: what two short runs left needs patience.
    """

    def run(task: Task) -> AttackResult:
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps if task.restart < 2 else later,
            step_share=1.0,
            momentum=None,
            smoothing=pixel_scale(task.threat, task.x),
            start=output_diversified(),
            generator=task.streams,
        )

    return PlannedAttack(
        "smoothed",
        run,
        MOST,
        settings={
            "loss": "margin",
            "steps": steps,
            "later_steps": later,
            "step_share": 1.0,
            "smoothing": "eps",
            "start": "output_diversified",
        },
        description=f"margin along gradients averaged over noise, {steps} (later {later}) steps, diversified starts",
        cost=lambda restart: 4 * (steps if restart < 2 else later) + 6,
    )


def polish(steps: int = STEPS // 2) -> PlannedAttack:
    """Return a short margin ascent from the best point so far, moved by a little noise."""

    def run(task: Task) -> AttackResult:
        start = noised(at(task.best), 0.25 * pixel_scale(task.threat, task.x))
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            step_share=0.5,
            start=start,
            generator=task.streams,
        )

    return PlannedAttack(
        "polish",
        run,
        MOST,
        settings={"loss": "margin", "steps": steps, "step_share": 0.5, "noise": "eps/4", "start": "best"},
        description=f"margin loss, {steps} shrinking steps from the best point so far, moved by noise",
        cost=lambda restart: 2 * steps + 1,
    )


def neighbours(steps: int = STEPS // 2, donors: int = 8) -> PlannedAttack:
    """Return a short ascent from the best of the perturbations that broke other images of the class."""

    def run(task: Task) -> AttackResult:
        begin = best_of(task.donors[:, :donors])
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            step_share=1.0,
            start=begin,
            generator=task.streams,
        )

    return PlannedAttack(
        "neighbours",
        run,
        MOST,
        settings={"loss": "margin", "steps": steps, "step_share": 1.0, "start": "donors", "donors": donors},
        description=f"{steps} shrinking steps from the best of {donors} perturbations that broke others of the class",
        cost=lambda restart: 2 * steps + 1 + donors,
        wants_donors=True,
    )


def stripes_search(queries: int = 200) -> PlannedAttack:
    """Return random search by squares from stripes, large ones first."""

    def run(task: Task) -> AttackResult:
        return square(task.model, task.x, task.y, threat=task.threat, queries=queries, generator=task.streams)

    return PlannedAttack(
        "stripes",
        run,
        MOST,
        settings={"loss": "margin", "queries": queries, "window": 0.8},
        description=f"no gradients: {queries} queries of Square from stripes",
        cost=lambda restart: queries,
        gradients=False,
    )


def square_search(queries: int = 100) -> PlannedAttack:
    """Return random search by square windows from the best point so far; each restart begins with smaller ones."""

    def run(task: Task) -> AttackResult:
        return square(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            queries=queries,
            window=max(0.4 / 2**task.restart, 0.025),
            start=at(task.best),
            generator=task.streams,
        )

    return PlannedAttack(
        "square",
        run,
        MOST,
        settings={"loss": "margin", "queries": queries, "window": "0.4, halved by restart to 0.025", "start": "best"},
        description=f"no gradients: {queries} queries, random squares on the best point so far",
        cost=lambda restart: queries,
        gradients=False,
    )


def coarse_to_fine(queries: int = 250, steps: int = STEPS // 2) -> PlannedAttack:
    """Return random search by large squares, then a short ascent from its best: patterns that no gradient finds."""

    def run(task: Task) -> AttackResult:
        return cosine_pgd(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            step_share=0.5,
            start=searched(queries),
            generator=task.streams,
        )

    return PlannedAttack(
        "coarse-to-fine",
        run,
        MOST,
        settings={"loss": "margin", "queries": queries, "window": 0.8, "steps": steps, "step_share": 0.5},
        description=f"{queries} queries of Square from stripes, then {steps} shrinking steps from its best point",
        cost=lambda restart: queries + 2 * steps + 1,
    )


def boundary_walk(steps: int = 50, *, classes: int) -> PlannedAttack:
    """Return FAB towards one wrong class per restart, likeliest first: it walks along the boundary, not up the loss."""

    def run(task: Task) -> AttackResult:
        target = likeliest_target(task.model, task.x, task.y, rank=task.restart + 1)
        found = fab(task.model, task.x, task.y, threat=task.threat, steps=steps, target=target, generator=task.streams)
        return replace(found, forwards=found.forwards + 1)

    return PlannedAttack(
        "boundary",
        run,
        min(9, classes - 1),
        settings={"attack": "fab", "steps": steps, "target": "likeliest, by restart"},
        description=f"{steps} steps of FAB towards one wrong class per restart, likeliest first",
        cost=lambda restart: 3 * steps + 6,
    )


def query_ascent(steps: int = 10, samples: int = 20) -> PlannedAttack:
    """Return Adam steps along gradients estimated from queries of the size of eps."""

    def run(task: Task) -> AttackResult:
        scale = pixel_scale(task.threat, task.x)
        return spsa(
            task.model,
            task.x,
            task.y,
            threat=task.threat,
            steps=steps,
            step_size=2 * scale / steps,
            delta=scale,
            samples=samples,
            generator=task.streams,
        )

    return PlannedAttack(
        "spsa",
        run,
        MOST,
        settings={"loss": "margin", "steps": steps, "samples": samples, "delta": "eps"},
        description=f"no gradients: {steps} Adam steps along estimates from {2 * samples} queries each",
        cost=lambda restart: steps * (2 * samples + 1) + 1,
        gradients=False,
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
