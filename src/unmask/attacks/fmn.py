"""FMN: normalised gradient steps on a ball that shrinks while the point is adversarial and grows while it is not."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from unmask.attacks.fast_passes import full_precision
from unmask.attacks.hyperplane import distance_to_hyperplane
from unmask.attacks.nearest import Nearest
from unmask.attacks.problem import AttackResult, Problem, input_gradient, pose
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import ThreatModel

GAMMA = (0.05, 0.001)
STEP_END = 1e-5


def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    step_size: float = 1.0,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by the fast minimum-norm attack (Pintor et al. 2021), for Linf, L2 and L1.

    Each step has the Euclidean length `step_size` (pixels), which falls to 1e-5 along a half cosine, and ends on a ball
    whose radius follows the boundary (Algorithm 1, gamma from 0.05 to 0.001); it costs one forward and one backward. An
    image with an adversarial point in the threat's ball is left alone at once; where the nearest one found lies
    outside, its projection is returned. Nothing is random. Raises DataError or ModelError for unusable inputs or
    outputs, AuditError for a negative number of steps.
    """
    problem = pose(full_precision(model), x, y, threat=threat, generator=generator, loss=margin, target=target)
    return nearest_by_fmn(problem, steps, step_size).result()


def nearest_by_fmn(problem: Problem, steps: int, step_size: float = 1.0) -> Nearest:
    """Look for the nearest adversarial points; arguments as in `fmn`. Raises AuditError for a negative `steps`."""
    if steps < 0:
        raise AuditError(f"steps is {steps}; expected 0 (judge the clean images alone) or more.")
    found = Nearest(problem)
    if len(problem.x):
        with eval_mode(problem.model):
            _descend(found, problem, steps, step_size)
    return found


def _descend(found: Nearest, problem: Problem, steps: int, step_size: float) -> None:
    rows, x_adv = found.survivors(), problem.x
    radius = torch.zeros(len(rows), dtype=torch.float64, device=x_adv.device)
    euclidean = replace(problem.threat, norm="l2")
    for step in range(steps + 1):
        leaf, logits, values = problem.forward(x_adv, graph=step < steps)
        adversarial, _ = found.record(rows, x_adv, logits.detach(), traced=True)
        kept = ~found.broken[rows]
        if step == steps or not kept.any():
            return
        slope = input_gradient(values, leaf)[kept]
        found.backwards[rows] += int(values.requires_grad)
        problem, rows, x_adv, values = problem.select(kept), rows[kept], x_adv[kept], values.detach()[kept]
        boundary = _linear_estimate(problem, x_adv, values, slope)
        radius = _next_radius(
            radius[kept], boundary, found.distance[rows], adversarial[kept], _cosine(*GAMMA, step / steps)
        )
        move = euclidean.steepest_step(slope, x_adv, _cosine(step_size, STEP_END, step / steps))
        x_adv = onto_balls(x_adv + move, problem.x, radius, problem.threat)


def _linear_estimate(problem: Problem, x_adv: Tensor, values: Tensor, slope: Tensor) -> Tensor:
    """Return how far from the clean image the linearised boundary lies (S,), and no more than the box is wide."""
    threat = problem.threat
    widest = threat.distance(torch.full_like(x_adv, threat.low), torch.full_like(x_adv, threat.high))
    away = distance_to_hyperplane(slope, values, norm=threat.norm)
    return torch.minimum(threat.distance(x_adv, problem.x) + away, widest)


def _next_radius(radius: Tensor, boundary: Tensor, nearest: Tensor, adversarial: Tensor, gamma: float) -> Tensor:
    """Return the radii (S,) of the next step: up or down by gamma, until a success from the boundary's estimate."""
    # The paper stays on the estimate, which for a linear model is exact: the boundary would never be crossed.
    outwards = torch.where(nearest.isinf(), boundary, radius) * (1 + gamma)
    return torch.where(adversarial, torch.minimum(radius * (1 - gamma), nearest), outwards)


def onto_balls(x_adv: Tensor, x: Tensor, radius: Tensor, threat: ThreatModel) -> Tensor:
    """Return the nearest points within the box and balls of the radii (S,) around x."""
    # A threat model has one radius and one box: so all is divided by the radius, which makes the balls one unit ball,
    # and every pixel is mirrored and shifted so that the wall it moves towards is at zero.
    unit = ThreatModel(threat.norm, Fraction(1), -1e30, 0.0)
    size = radius.clamp(min=1e-12).view(-1, *[1] * (x.dim() - 1))
    move = (x_adv - x).double()
    wall = torch.where(move > 0, threat.high - x, x - threat.low).clamp(min=0) / size
    kept = unit.project(move.abs() / size - wall, -wall) + wall
    return (x + (kept * size * move.sign()).to(x)).clamp(threat.low, threat.high)


def _cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
