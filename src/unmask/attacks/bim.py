"""BIM: iterated FGSM from the clean image."""

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


def bim(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by `steps` steepest steps from the clean image (Kurakin et al. 2017).

    `step_size` is in pixels, by default eps / steps. It draws nothing; `generator` is accepted so that all attacks are
    called alike. Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    stepper = fixed(threat.eps / max(steps, 1) if step_size is None else step_size)
    return ascend(problem, start=clean(), stepper=stepper, steps=steps)
