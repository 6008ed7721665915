"""MD: one logit first, then the margin, where the margin's two gradients are out of balance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unmask.attacks.ascent import LossSchedule, ascend
from unmask.attacks.problem import AttackResult, Problem, in_turn, pose
from unmask.attacks.start import Start, uniform
from unmask.attacks.stepper import Clock, cosine
from unmask.contract import Model
from unmask.errors import AuditError
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def md(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by margin decomposition (Ma et al. 2023, "Imbalanced gradients").

    The first half of the steps raises one term of the margin alone, -z_y in the first run and max_{j != y} z_j (or
    z_target) in the next, by turns over the restarts; the second half raises the margin. Each half's steps fall from
    2 eps to 0 along a half cosine. Starts are uniform in the ball unless `start` says otherwise. Raises DataError or
    ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=margin, target=target)
    return decomposed(problem, steps=steps, restarts=restarts, start=start, scores=lambda logits: logits)


def decomposed(
    problem: Problem, *, steps: int, restarts: int, start: Start | None, scores: Callable[[Tensor], Tensor]
) -> AttackResult:
    """Run MD's two stages on the scores (B, K) that are made of the logits (B, K)."""
    if restarts < 1:
        raise AuditError(f"restarts is {restarts}; expected 1 (a single run) or more.")
    begin, stepper = uniform() if start is None else start, cosine(2.0, stages=2)

    def run(part: Problem, first: Loss) -> AttackResult:
        return ascend(part, start=begin, stepper=stepper, steps=steps, schedule=_in_two_stages(first, margin, scores))

    terms = (_own_down, _other_up)
    return in_turn([partial(run, first=terms[restart % 2]) for restart in range(restarts)], problem)


def _in_two_stages(first: Loss, second: Loss, scores: Callable[[Tensor], Tensor]) -> LossSchedule:
    def schedule(problem: Problem, clock: Clock) -> Loss:
        loss = first if 2 * clock.step < clock.steps else second
        return lambda logits, y, target: loss(scores(logits), y, target)

    return schedule


def _own_down(scores: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    return -scores.gather(1, y.unsqueeze(1)).squeeze(1)


def _other_up(scores: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    return margin(scores, y, target) - _own_down(scores, y)
