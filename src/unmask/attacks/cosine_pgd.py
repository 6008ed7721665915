"""PGD with large steps that shrink to nothing, momentum, and optionally a smoothed gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.gradient import exact, smoothed
from unmask.attacks.problem import AttackResult, pose, restarted
from unmask.attacks.start import Start, corners
from unmask.attacks.stepper import cosine
from unmask.contract import Model
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def cosine_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 30,
    step_share: float = 2.0,
    momentum: float | None = 0.75,
    smoothing: float = 0.0,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = margin,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) with steps that fall from `step_share` * eps to 0 along a half cosine.

    `momentum` is APGD's mixing weight (None: none). `smoothing` is the standard deviation, in pixels, of the noise at
    which one further gradient is taken per step; it pays on jagged loss surfaces and costs twice as much. Starts are
    random corners unless `start` says otherwise. Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    begin = corners() if start is None else start
    stepper, gradient = cosine(step_share, momentum=momentum), smoothed(smoothing) if smoothing else exact()
    return restarted(
        lambda part: ascend(part, start=begin, stepper=stepper, steps=steps, gradient=gradient), problem, restarts
    )
