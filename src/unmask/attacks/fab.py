"""FAB: steps onto the linearised decision boundary, each pulled towards the clean image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.attacks.fast_passes import full_precision
from unmask.attacks.hyperplane import distance_to_hyperplane, move_to_hyperplane
from unmask.attacks.nearest import Nearest
from unmask.attacks.problem import AttackResult, Problem, pose
from unmask.attacks.start import Start, clean, uniform
from unmask.attacks.targets import ranked_targets
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import ThreatModel

FINAL_STEPS = 3


def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 0,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by the fast adaptive boundary attack (Croce & Hein 2020), for Linf, L2 and L1.

    With `targets` 0 every step heads for the nearest of all K - 1 boundaries and costs 2 forwards and K - 1 backwards;
    with `targets` n the n likeliest wrong classes of the clean image are tried one after the other (FAB-T), with
    `target` that class alone, at 2 forwards and 1 backward per step. Any misclassification counts. Each run ends with 3
    forwards of a search along the way to the clean image. The first restart begins at the clean image, later ones at a
    random point of the ball of eps / 2. An image with an adversarial point in the ball is left alone at once; where the
    nearest one found lies outside, its projection is returned.

    `alpha_max` bounds the pull to the clean image (Eq. 9), `eta` overshoots the boundary (Eq. 10), `beta` is the share
    of the perturbation that is kept after a success. Raises DataError or ModelError for unusable inputs or outputs,
    AuditError for unusable numbers.
    """
    if restarts < 1:
        raise AuditError(f"restarts is {restarts}; expected 1 (a single run) or more.")
    if targets < 0 or (targets and target is not None):
        given = "" if target is None else " beside a target"
        raise AuditError(f"targets is {targets}{given}; expected 0, or without a target 1 (the runner-up) or more.")
    problem = pose(full_precision(model), x, y, threat=threat, generator=generator, loss=margin, target=target)
    return nearest_by_fab(problem, FabStep(alpha_max, eta, beta), steps, restarts, targets).result()


@dataclass(frozen=True)
class FabStep:
    """How FAB moves: the largest pull to the clean image, the overshoot, and what is kept after a success."""

    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __call__(self, x_adv: Tensor, x: Tensor, normal: Tensor, value: Tensor, threat: ThreatModel) -> Tensor:
        """Return the next point for the boundary value + <normal, z - x_adv> = 0 (Eq. 8 to 10)."""
        value_at_x = value + (normal * (x - x_adv)).flatten(1).sum(1)
        points, twice = torch.cat([x_adv, x]), normal.repeat(2, *[1] * (normal.dim() - 1))
        gap = -torch.cat([value, value_at_x])
        moves = move_to_hyperplane(
            points.flatten(1), twice.flatten(1), gap, norm=threat.norm, low=threat.low, high=threat.high
        ).view_as(points)
        here, there = threat.distance(points + moves, points).to(x).chunk(2)
        pull = (here / (here + there).clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=self.alpha_max)
        ahead, back = (points + self.eta * moves).chunk(2)
        return torch.lerp(ahead, back, pull.view(-1, *[1] * (x.dim() - 1))).clamp(threat.low, threat.high)


def nearest_by_fab(problem: Problem, move: FabStep, steps: int, restarts: int = 1, targets: int = 0) -> Nearest:
    """Look for the nearest adversarial points; arguments as in `fab`. Raises AuditError for a negative `steps`."""
    if steps < 0:
        raise AuditError(f"steps is {steps}; expected 0 (judge the clean images alone) or more.")
    found = Nearest(problem)
    if not len(problem.x):
        return found
    with eval_mode(problem.model):
        _, logits, _ = problem.forward(problem.x, graph=False)
        _, clean_margin = found.record(found.survivors(), problem.x, logits, traced=True)
        aims = _aims(problem, logits, targets)
        near = replace(problem.threat, exact_eps=problem.threat.exact_eps / 2)
        for restart in range(restarts):
            for run, aim in enumerate(aims):
                rows = found.survivors()
                if not len(rows):
                    return found
                start: Start = uniform() if restart else clean()
                streams = problem.streams.child("restart", restart, run).select(rows)
                x_adv = start(replace(found.problem.select(rows), threat=near, streams=streams)).x_adv
                before = found.distance.clone()
                _run(found, rows, x_adv, aim if aim is None else aim[rows], move, steps)
                _search_back(found, found.distance < before, clean_margin)
    return found


def _aims(problem: Problem, clean_logits: Tensor, targets: int) -> list[Tensor | None]:
    return list(ranked_targets(clean_logits, problem.y)[:, :targets].unbind(1)) if targets else [problem.target]


def _run(found: Nearest, rows: Tensor, x_adv: Tensor, aim: Tensor | None, move: FabStep, steps: int) -> None:
    for _ in range(steps):
        part = found.problem.select(rows)
        leaf, logits, _ = part.forward(x_adv, graph=True)
        found.record(rows, x_adv, logits.detach())
        kept = ~found.broken[rows]
        if not kept.any():
            return
        normal, value, backwards = _nearest_boundary(leaf, logits, part.y, aim, part.threat)
        found.backwards[rows] += backwards
        rows, part, aim = rows[kept], part.select(kept), aim if aim is None else aim[kept]
        x_adv = move(x_adv[kept], part.x, normal[kept], value[kept], part.threat)
        adversarial, _ = found.judge(rows, x_adv, traced=True)
        drawn_back = torch.lerp(part.x, x_adv, move.beta).clamp(part.threat.low, part.threat.high)
        x_adv = torch.where(adversarial.view(-1, *[1] * (x_adv.dim() - 1)), drawn_back, x_adv)
        kept = ~found.broken[rows]
        rows, x_adv, aim = rows[kept], x_adv[kept], aim if aim is None else aim[kept]
        if not len(rows):
            return


def _nearest_boundary(
    leaf: Tensor, logits: Tensor, y: Tensor, aim: Tensor | None, threat: ThreatModel
) -> tuple[Tensor, Tensor, int]:
    """Return gradient (S, ...) and value (S,) of z_l - z_y for the wrong class l = `aim`, or else the one whose
    linearised boundary is nearest (Eq. 7), and the backwards per example that this took.
    """
    places = range(logits.shape[1] - 1)
    classes = [aim] if aim is not None else [place + (place >= y).long() for place in places]
    normal, value = torch.zeros_like(leaf), torch.zeros_like(logits[:, 0]).detach()
    nearest = torch.full(y.shape, torch.inf, dtype=torch.float64, device=y.device)
    for wrong in classes:
        with torch.enable_grad():
            gap = margin(logits, y, wrong)
        slope = _gradient(gap, leaf)
        away = distance_to_hyperplane(slope, gap.detach(), norm=threat.norm)
        nearer = away < nearest
        normal = torch.where(nearer.view(-1, *[1] * (leaf.dim() - 1)), slope, normal)
        value, nearest = torch.where(nearer, gap.detach(), value), torch.where(nearer, away, nearest)
    return normal.detach(), value, len(classes) * int(logits.requires_grad)


def _gradient(values: Tensor, leaf: Tensor) -> Tensor:
    """Do as `input_gradient` and leave the graph to the next class."""
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(values, leaf, torch.ones_like(values), retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)


def _search_back(found: Nearest, improved: Tensor, clean_margin: Tensor) -> None:
    """Look for the boundary between the clean images and their nearest points (the paper's final search)."""
    inner, inner_margin = found.problem.x.clone(), clean_margin.clone()
    for _ in range(FINAL_STEPS):
        rows = (improved & ~found.broken).nonzero().flatten()
        if not len(rows):
            return
        outer, outer_margin = found.nearest[rows], found.margin[rows]
        rise = (outer_margin - inner_margin[rows]).clamp(min=torch.finfo(outer_margin.dtype).tiny)
        share = (-inner_margin[rows] / rise).clamp(0, 1)
        # A little beyond the root of the chord: on a linear model the root itself falls on either side by rounding.
        share = (share + 0.01 * (1 - share)).view(-1, *[1] * (outer.dim() - 1))
        middle = torch.lerp(inner[rows], outer, share).clamp(found.problem.threat.low, found.problem.threat.high)
        adversarial, margins = found.judge(rows, middle)
        inner[rows[~adversarial]], inner_margin[rows[~adversarial]] = middle[~adversarial], margins[~adversarial]
