"""PGD towards a chosen class: the least likely, a random one, or a likely one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from unmask.attacks.pgd import pgd
from unmask.attacks.problem import AttackResult, Problem, pose
from unmask.attacks.targets import least_likely_target, likeliest_target, random_target
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError, unknown
from unmask.losses import Loss, cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel

TargetChoice = Literal["least_likely", "random", "likeliest"]


@torch.no_grad()
def _random(problem: Problem) -> Tensor:
    classes = problem.logits(problem.x).shape[1]
    return random_target(problem.y, classes, problem.streams.child("target"))


_TARGETS: dict[str, Callable[[Problem], Tensor]] = {
    "least_likely": lambda problem: least_likely_target(problem.model, problem.x, problem.y),
    "random": _random,
    "likeliest": lambda problem: likeliest_target(problem.model, problem.x, problem.y),
}


def targeted_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    choose: TargetChoice = "least_likely",
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    loss: Loss = cross_entropy,
    top: int = 1,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by PGD towards a wrong class; any misclassification counts as a break.

    With `top`, as in `pgd`, an image is broken once its label is not among so many of the likeliest classes.
    The targets cost one forward and are chosen on the clean image: `least_likely` and `random` are the public code's
    pgdll and pgdrnd (Kannan et al. 2018), `likeliest` takes the runner-up. A random target is never the true class.
    Raises DataError or ModelError for unusable inputs or outputs, AuditError for an unknown choice.
    """
    if choose not in _TARGETS:
        raise AuditError(unknown("choice of target", choose, _TARGETS))
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss)
    if not len(x):
        return pgd(model, x, y, threat=threat, generator=problem.streams)
    with eval_mode(model):
        target = _TARGETS[choose](problem)
    result = pgd(
        model,
        x,
        y,
        threat=threat,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        generator=problem.streams,
        target=target,
        loss=loss,
        top=top,
    )
    return replace(result, forwards=result.forwards + 1)
