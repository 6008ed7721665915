"""PGD: steepest steps of constant size from random starts; the field's usual attack."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, pose, restarted
from unmask.attacks.start import Start, uniform
from unmask.attacks.stepper import fixed
from unmask.contract import Model
from unmask.losses import Loss, cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel


def usual_step_size(threat: ThreatModel, steps: int) -> float:
    """Return 4 eps / (3 steps), in pixels: the 0.01 of 40 steps at eps 0.3 that the MNIST literature uses."""
    return 4 * threat.eps / (3 * max(steps, 1))


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = cross_entropy,
    start: Start | None = None,
    top: int = 1,
) -> AttackResult:
    """Attack images x (B, C, H, W) with labels y (B,) by projected gradient ascent (Madry et al. 2018).

    `step_size` is in pixels, by default 4 eps / (3 steps); starts are uniform in the ball unless `start` says
    otherwise. Unlike most implementations it returns the best iterate, not the last, and stops an example once it is
    broken: once its label is not among the `top` likeliest classes (1: once it is misclassified). Raises DataError or
    ModelError for unusable inputs or outputs, AuditError unless 1 <= top < K.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target, top=top)
    stepper = fixed(usual_step_size(threat, steps) if step_size is None else step_size)
    begin = uniform() if start is None else start
    return restarted(lambda part: ascend(part, start=begin, stepper=stepper, steps=steps), problem, restarts)
