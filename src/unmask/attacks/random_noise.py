"""Random search by corners of the ball: the weakest attack, and the one that needs nothing from the model."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, pose, restarted
from unmask.attacks.start import corners
from unmask.attacks.stepper import fixed
from unmask.contract import Model
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def random_noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    restarts: int = 20,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
) -> AttackResult:
    """Try `restarts` random extreme points of the ball around x (B, C, H, W), labels y (B,); one forward each.

    Where this finds what gradients do not, the gradients are useless (Athalye et al. 2018). Raises DataError or
    ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=margin, target=target)
    return restarted(lambda part: ascend(part, start=corners(), stepper=fixed(0.0), steps=0), problem, restarts)
