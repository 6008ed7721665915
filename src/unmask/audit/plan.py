"""Which attacks an audit runs, in which order: cheapest first, each on the survivors of all before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from unmask.attacks import cosine_pgd, fgsm, pgd, random_noise, spsa
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import AttackResult
from unmask.attacks.start import output_diversified
from unmask.attacks.targets import likeliest_target
from unmask.contract import Model
from unmask.errors import AuditError, unknown
from unmask.losses import scale_invariant
from unmask.streams import Streams
from unmask.threat import ThreatModel, parse_eps

Move = Callable[[Model, Tensor, Tensor, ThreatModel, Streams, int], AttackResult]
CLAIM = "pgd-40"


@dataclass(frozen=True)
class PlannedAttack:
    """One attack of a plan: `run(model, x, y, threat, streams, restart)` once per restart, on the survivors.

    `settings` says for the record what `run` does; two plans with equal settings must do the same.
    """

    name: str
    run: Move
    restarts: int = 1
    role: Literal["claim", "search"] = "search"
    settings: Mapping[str, object] = field(default_factory=dict)
    description: str = ""


def claim_attack(name: str, threat: ThreatModel) -> PlannedAttack:
    """Return the usual attack whose figure is the claim: "fgsm", "pgd-N", or "pgd-N-step-SIZE"; one random start.

    N steps of 4 eps / (3 N) unless a size is given (in pixels: 0.01, 2/255): at eps 0.3 "pgd-40" is the 40 steps of
    0.01 of the MNIST literature. Raises AuditError for another name.
    """
    if name == "fgsm":
        return PlannedAttack(
            name,
            lambda m, x, y, t, s, r: fgsm(m, x, y, threat=t, generator=s),
            role="claim",
            settings={"steps": 1},
            description="one step of eps on the cross-entropy, from the clean image",
        )
    match = re.fullmatch(r"pgd-([1-9]\d{0,5})(?:-step-(.+))?", name)
    if match is None:
        known = ["pgd-40", "pgd-20", "pgd-10", "fgsm"]
        raise AuditError(unknown("claim", name, known) + " Any pgd-N or pgd-N-step-SIZE will do.")
    steps = int(match[1])
    step_size = float(parse_eps(match[2])) if match[2] else usual_step_size(threat, steps)
    return PlannedAttack(
        name,
        lambda m, x, y, t, s, r: pgd(m, x, y, threat=t, steps=steps, step_size=step_size, generator=s),
        role="claim",
        settings={"loss": "cross_entropy", "steps": steps, "step_size": round(step_size, 6), "start": "uniform"},
        description=f"{steps} steps of {step_size:.4g} on the cross-entropy, one random start",
    )


def _noise(draws: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        return random_noise(model, x, y, threat=threat, restarts=draws, generator=streams)

    return PlannedAttack("noise", run, 1, settings={"draws": draws}, description=f"{draws} random corners of the ball")


def _margin(steps: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        return cosine_pgd(model, x, y, threat=threat, steps=steps, generator=streams)

    return PlannedAttack(
        "margin",
        run,
        1,
        settings={"loss": "margin", "steps": steps, "step_share": 2.0, "momentum": 0.75},
        description=f"margin loss, {steps} steps that shrink from 2 eps, momentum, from a random corner",
    )


def _scale_invariant(steps: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        return cosine_pgd(model, x, y, threat=threat, steps=steps, loss=scale_invariant, generator=streams)

    return PlannedAttack(
        "scale-invariant",
        run,
        1,
        settings={"loss": "scale_invariant", "steps": steps, "step_share": 2.0, "momentum": 0.75},
        description=f"cross-entropy of rescaled logits, {steps} steps that shrink from 2 eps, momentum",
    )


def _smoothed(steps: int, restarts: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        return cosine_pgd(
            model,
            x,
            y,
            threat=threat,
            steps=steps,
            step_share=1.0,
            momentum=None,
            smoothing=_pixel_scale(threat, x),
            start=output_diversified(),
            generator=streams,
        )

    return PlannedAttack(
        "smoothed",
        run,
        restarts,
        settings={
            "loss": "margin",
            "steps": steps,
            "step_share": 1.0,
            "smoothing": "eps",
            "start": "output_diversified",
        },
        description=f"margin loss along gradients averaged over noise, {steps} shrinking steps, diversified starts",
    )


def _diversified(steps: int, restarts: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        return cosine_pgd(model, x, y, threat=threat, steps=steps, start=output_diversified(), generator=streams)

    return PlannedAttack(
        "diversified",
        run,
        restarts,
        settings={"loss": "margin", "steps": steps, "step_share": 2.0, "momentum": 0.75, "start": "output_diversified"},
        description=f"margin loss, {steps} steps that shrink from 2 eps, starts that differ in the output",
    )


def _targeted(steps: int, targets: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        target = likeliest_target(model, x, y, rank=restart + 1)
        result = cosine_pgd(model, x, y, threat=threat, steps=steps, target=target, generator=streams)
        return replace(result, forwards=result.forwards + 1)

    return PlannedAttack(
        "targeted",
        run,
        targets,
        settings={
            "loss": "margin",
            "steps": steps,
            "step_share": 2.0,
            "momentum": 0.75,
            "target": "likeliest, by restart",
        },
        description=f"margin against one wrong class per restart, likeliest first, {steps} shrinking steps",
    )


def _spsa(steps: int, samples: int) -> PlannedAttack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, restart: int) -> AttackResult:
        step_size = 2 * _pixel_scale(threat, x) / steps
        return spsa(model, x, y, threat=threat, steps=steps, step_size=step_size, samples=samples, generator=streams)

    return PlannedAttack(
        "spsa",
        run,
        1,
        settings={"loss": "margin", "steps": steps, "samples": samples},
        description=f"no gradients: {steps} Adam steps along estimates from {2 * samples} queries each",
    )


BUDGETS: dict[str, tuple[Callable[[int], PlannedAttack], ...]] = {
    "quick": (
        lambda classes: _noise(5),
        lambda classes: _margin(20),
        lambda classes: _scale_invariant(20),
        lambda classes: _smoothed(20, 3),
    ),
    "standard": (
        lambda classes: _noise(20),
        lambda classes: _margin(30),
        lambda classes: _scale_invariant(30),
        lambda classes: _targeted(30, min(3, classes - 1)),
        lambda classes: _smoothed(20, 6),
        lambda classes: _diversified(30, 3),
    ),
    "exhaustive": (
        lambda classes: _noise(100),
        lambda classes: _margin(100),
        lambda classes: _scale_invariant(100),
        lambda classes: _smoothed(50, 50),
        lambda classes: _targeted(100, min(9, classes - 1)),
        lambda classes: _diversified(100, 20),
        lambda classes: _spsa(50, 64),
    ),
}


def make_plan(
    budget: str | Sequence[PlannedAttack], threat: ThreatModel, classes: int, claim: str | None
) -> tuple[PlannedAttack, ...]:
    """Return the claim's attack, if any, and those of a budget (by name, or attacks of your own) for K classes.

    Raises AuditError for an unknown budget or claim, and for two attacks of one name.
    """
    if isinstance(budget, str) and budget not in BUDGETS:
        raise AuditError(unknown("budget", budget, BUDGETS))
    claimed = () if claim is None else (claim_attack(claim, threat),)
    plan = (*claimed, *((make(classes) for make in BUDGETS[budget]) if isinstance(budget, str) else budget))
    names = [attack.name for attack in plan]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "clean" in names:
        raise AuditError(f"Two attacks of the plan are called '{twice or 'clean'}'; give each a name of its own.")
    return plan


def _pixel_scale(threat: ThreatModel, x: Tensor) -> float:
    """Return the size of a typical pixel's change when the whole ball is used, in pixels."""
    pixels = x[0].numel()
    exponent = {"linf": 0.0, "l2": 0.5, "l1": 1.0}[threat.norm]
    return threat.eps / float(pixels**exponent)
