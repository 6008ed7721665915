"""FGSM: one steepest step of size eps from the clean image."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, pose
from unmask.attacks.start import clean
from unmask.attacks.stepper import fixed
from unmask.contract import Model
from unmask.losses import Loss, cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> AttackResult:
    """Attack images x (B, C, H, W) with labels y (B,) by one full steepest step (Goodfellow et al. 2015).

    It draws nothing; `generator` is accepted so that all attacks are called alike. Raises DataError or ModelError for
    unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    return ascend(problem, start=clean(), stepper=fixed(threat.eps), steps=1)
