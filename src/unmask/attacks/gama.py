"""GAMA-PGD: the margin between probabilities, at first guided away from the answer to the clean image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks.ascent import LossSchedule, ascend
from unmask.attacks.probabilities import probabilities
from unmask.attacks.problem import AttackResult, Problem, pose, restarted, with_clean_logits
from unmask.attacks.start import Start, corners
from unmask.attacks.stepper import Clock, dropping
from unmask.contract import Model
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def gama(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    weight: float = 50.0,
    guided: float = 0.25,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by GAMA-PGD (Sriramanan et al. 2020, Algorithm 1).

    Climbs max_{j != y} p_j - p_y (or p_target - p_y) plus a weight times the squared L2 distance between p and the
    clean image's p. The weight falls linearly from `weight` to 0 over the first `guided` share of the steps. Steps are
    2 eps, a tenth of that after 60% of them and a hundredth after 85%. Starts are random corners unless `start` says
    otherwise. The clean p cost one forward. A softmax that would be too sure to have a gradient is taken of flatter
    logits (see `probabilities`); how much the distance weighs beside the margin still depends on the logits' scale, as
    in the paper. Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = with_clean_logits(pose(model, x, y, threat=threat, generator=generator, loss=margin, target=target))
    begin, stepper = corners() if start is None else start, dropping(2.0, 0.1, at=(0.6, 0.85))
    schedule = _guided(weight, guided)
    result = restarted(
        lambda part: ascend(part, start=begin, stepper=stepper, steps=steps, schedule=schedule), problem, restarts
    )
    return replace(result, forwards=result.forwards + 1)


def _guided(weight: float, share: float) -> LossSchedule:
    def schedule(problem: Problem, clock: Clock) -> Loss:
        assert problem.clean_logits is not None
        clean, end = probabilities(problem.clean_logits), share * clock.steps
        now = weight * (1 - clock.step / end) if clock.step < end else 0.0

        def loss(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
            p = probabilities(logits)
            return margin(p, y, target) + now * (p - clean).square().sum(1)

        return loss

    return schedule
