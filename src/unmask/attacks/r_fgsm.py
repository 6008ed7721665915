"""R+FGSM: a random step, then one steepest step for the rest of eps."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, pose, restarted
from unmask.attacks.start import random_step
from unmask.attacks.stepper import fixed
from unmask.contract import Model
from unmask.losses import Loss, cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel


def r_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    random_share: float = 0.5,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by a random step of `random_share` * eps and a steepest one of the rest.

    Source: Tramer et al. 2018, Section 4.1. Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    start, stepper = random_step(random_share), fixed((1 - random_share) * threat.eps)
    return restarted(lambda part: ascend(part, start=start, stepper=stepper, steps=1), problem, restarts)
