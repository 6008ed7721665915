"""SPSA: ascent along gradients estimated from logits alone, for models whose gradients are missing or useless."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.gradient import spsa as spsa_gradient
from unmask.attacks.problem import AttackResult, pose, restarted
from unmask.attacks.start import uniform
from unmask.attacks.stepper import adam
from unmask.contract import Model
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def spsa(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    step_size: float = 0.01,
    delta: float = 0.01,
    samples: int = 128,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = margin,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) without gradients: margin loss, SPSA estimates, Adam steps (Uesato et al. 2018).

    Each step draws `samples` sign vectors of size `delta` (pixels) and costs 2 * samples + 1 forwards; no backwards.
    The defaults are those of Mosbach et al.'s evaluation. Raises DataError or ModelError for unusable inputs or
    outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    stepper, gradient = adam(step_size), spsa_gradient(delta, samples)
    return restarted(
        lambda part: ascend(part, start=uniform(), stepper=stepper, steps=steps, gradient=gradient), problem, restarts
    )
