"""PMA: the margin between probabilities, climbed in two stages."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.md import decomposed
from unmask.attacks.probabilities import probabilities
from unmask.attacks.problem import AttackResult, pose
from unmask.attacks.start import Start
from unmask.contract import Model
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def pma(
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
    """Attack x (B, C, H, W), y (B,) by the probability margin max_{j != y} p_j - p_y (Xie et al. 2024, PMA).

    The stages, steps and starts are those of `md`, with probabilities in the place of logits. Where the softmax would
    be too sure to have a gradient it is taken of flatter logits (see `probabilities`), which the paper does not do.
    Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=margin, target=target)
    return decomposed(problem, steps=steps, restarts=restarts, start=start, scores=probabilities)
