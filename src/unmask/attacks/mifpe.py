"""MIFPE: PGD on a cross-entropy that no scale of the logits can silence."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.pgd import pgd
from unmask.attacks.problem import AttackResult
from unmask.attacks.start import Start
from unmask.contract import Model
from unmask.losses import scale_invariant
from unmask.streams import Streams
from unmask.threat import ThreatModel


def mifpe(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by `pgd` on `losses.scale_invariant` (Yu & Xu 2023, "MIFPE").

    The loss is the cross-entropy of t z / (z_1st - z_2nd) with the divisor held constant and t = 1: its gradient
    neither underflows nor is rounded away, whatever the scale of the logits. Raises DataError or ModelError for
    unusable inputs or outputs.
    """
    return pgd(
        model,
        x,
        y,
        threat=threat,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        generator=generator,
        target=target,
        loss=scale_invariant,
        start=start,
    )
