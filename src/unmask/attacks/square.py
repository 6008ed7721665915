"""Square: random search by square windows of the largest change; needs the model's answers and no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.gradient import unneeded
from unmask.attacks.problem import AttackResult, Problem, pose, restarted
from unmask.attacks.start import Start, Started
from unmask.attacks.stepper import Clock, State, Stepper
from unmask.contract import Model
from unmask.errors import AuditError
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel

# Queries, of 10,000, after which the window's share of the image halves (Andriushchenko et al. 2020, Section 3.3).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
NORMS = ("linf", "l2")
TILE = 5

Proposal = Callable[[Problem, Tensor, int], Tensor]


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    queries: int = 5000,
    window: float = 0.8,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss = margin,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by random search over square windows (Andriushchenko et al. 2020, Algorithm 1).

    `queries` is the number of forwards per image and restart; `window` the share of the image that the first windows
    cover, which falls with the queries. Starts are vertical stripes (Linf) or tiles (L2) unless `start` says otherwise:
    from another attack's best point small windows (0.05) do best. Linf and L2; raises AuditError for another norm or
    fewer than one query, DataError or ModelError for unusable inputs or outputs.
    """
    begin, propose = _parts(threat)
    if queries < 1:
        raise AuditError(f"queries is {queries}; expected 1 (the start alone) or more.")
    if not 0 < window <= 1:
        raise AuditError(f"window is {window}; expected a share of the image in (0, 1].")
    problem = pose(model, x, y, threat=threat, generator=generator, loss=loss, target=target)
    stepper = random_search(propose, window)
    return restarted(
        lambda part: ascend(part, start=start or begin, stepper=stepper, steps=queries - 1, gradient=unneeded()),
        problem,
        restarts,
    )


def searched(queries: int, window: float = 0.8) -> Start:
    """Start at the best point that `queries` of Square found: coarse patterns that no gradient leads to.

    Raises AuditError for a norm that Square does not know.
    """

    def start(problem: Problem) -> Started:
        begin, propose = _parts(problem.threat)
        search = replace(problem, streams=problem.streams.child("search"))
        stepper = random_search(propose, window)
        found = ascend(search, start=begin, stepper=stepper, steps=queries - 1, gradient=unneeded())
        return Started(found.x_adv, found.forwards, found.backwards)

    return start


def _parts(threat: ThreatModel) -> tuple[Start, Proposal]:
    if threat.norm not in NORMS:
        raise AuditError(f"Square knows no windows for {threat}; its norms are {' and '.join(NORMS)}. Try spsa.")
    return (stripes(), _flip) if threat.norm == "linf" else (tiles(), _swap)


def random_search(propose: Proposal, window: float) -> Stepper:
    """Return a stepper that proposes a change of the best point so far, and keeps it where the loss rose."""

    def init(problem: Problem, x_adv: Tensor) -> State:
        return {"best": x_adv, "value": torch.full_like(x_adv.flatten(1)[:, 0], -torch.inf)}

    def update(
        problem: Problem, x_adv: Tensor, gradient: Tensor, values: Tensor, state: State, clock: Clock
    ) -> tuple[Tensor, State]:
        better = values > state["value"]
        best = torch.where(better.view(-1, *[1] * (x_adv.dim() - 1)), x_adv, state["best"])
        height, width = _plane(x_adv)
        queries = 10_000 * clock.step / clock.steps
        share = window / 2 ** sum(queries > halving for halving in HALVINGS)
        side = max(1, round(math.sqrt(share * height * width)))
        return propose(problem, best, side), {"best": best, "value": torch.maximum(values, state["value"])}

    return Stepper(init, update)


def stripes() -> Start:
    """Start with every column of every channel changed by eps, up or down at random."""

    def start(problem: Problem) -> Started:
        x = problem.x
        columns = (x.shape[1], 1, x.shape[-1]) if x.dim() == 4 else (1,) * (x.dim() - 2) + (x.shape[-1],)
        return Started(problem.threat.project(x + problem.threat.eps * problem.streams.signs(columns).to(x), x))

    return start


def tiles() -> Start:
    """Start with the image covered by small humps of random sign, on the sphere of radius eps."""

    def start(problem: Problem) -> Started:
        x = _as_planes(problem.x)
        height, width = x.shape[-2:]
        rows, columns = -(-height // TILE), -(-width // TILE)
        signs = problem.streams.signs((x.shape[1], rows, columns)).to(x)
        pattern = torch.kron(signs, hump(TILE, TILE).to(x))[..., :height, :width]
        step = pattern / pattern.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return Started(problem.threat.project(problem.x + problem.threat.eps * step.view_as(problem.x), problem.x))

    return start


def hump(height: int, width: int) -> Tensor:
    """Return a pyramid (height, width) of unit length: sum over k >= d of 1/(k+1)^2, d steps from the centre."""
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    steps = torch.maximum(rows[:, None], columns[None, :])
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).square()
    pyramid = terms.flip(0).cumsum(0).flip(0)[steps]
    return cast(Tensor, pyramid / torch.linalg.vector_norm(pyramid))


def _flip(problem: Problem, best: Tensor, side: int) -> Tensor:
    """Set a window, in each channel, to the clean image plus or minus eps."""
    planes = _as_planes(best)
    draws = problem.streams.uniform((2 + planes.shape[1],)).to(planes)
    inside = _windows(draws[:, 0], draws[:, 1], planes, side)
    signs = torch.where(draws[:, 2:] < 0.5, -1.0, 1.0).to(planes)[:, :, None, None]
    return problem.threat.project((planes + 2 * problem.threat.eps * signs * inside).view_as(best), problem.x)


def _swap(problem: Problem, best: Tensor, side: int) -> Tensor:
    """Move the squared length of one window, and what is left of eps, into a pair of humps in another (Algorithm 3)."""
    planes, eps = _as_planes(best), problem.threat.eps
    channels = planes.shape[1]
    side = max(side, min(3, *planes.shape[-2:]))
    draws = problem.streams.uniform((5 + channels,)).to(planes)
    taken = _windows(draws[:, 0], draws[:, 1], planes, side)
    given = _windows(draws[:, 2], draws[:, 3], planes, side)
    delta = planes - _as_planes(problem.x)
    shape = _place(_pair(side, draws.dtype), draws[:, 0], draws[:, 1], planes, draws[:, 4] < 0.5)
    signs = torch.where(draws[:, 5:] < 0.5, -1.0, 1.0).to(planes)[:, :, None, None]
    tiny = torch.finfo(planes.dtype).tiny
    old = delta * taken
    new = shape * signs + old / old.flatten(1).norm(dim=1).clamp(min=tiny).view(-1, 1, 1, 1)
    unused = (eps**2 - delta.flatten(1).square().sum(1)).clamp(min=0).view(-1, 1, 1, 1) / channels
    energy = (delta * torch.maximum(taken, given)).square().sum((2, 3), keepdim=True)
    new = new / new.square().sum((2, 3), keepdim=True).sqrt().clamp(min=tiny) * (energy + unused).sqrt()
    kept = delta * (1 - torch.maximum(taken, given))
    return problem.threat.project(problem.x + (kept + new).view_as(best), problem.x)


def _pair(side: int, dtype: torch.dtype) -> Tensor:
    """Return two humps of opposite sign that fill a square of `side`, of unit length together."""
    half = side // 2
    upper = torch.zeros(0, side, dtype=torch.float64) if half == 0 else hump(half, side)
    pair = torch.cat([upper, -hump(side - half, side)])
    return cast(Tensor, pair / torch.linalg.vector_norm(pair)).to(dtype)


def _place(pattern: Tensor, top: Tensor, left: Tensor, planes: Tensor, turned: Tensor) -> Tensor:
    """Put a square pattern (S, S), turned for some rows, where the windows lie: (B, 1, H, W), zero elsewhere."""
    side = len(pattern)
    rows, row_inside = _offsets(top, planes.shape[-2], side)
    columns, column_inside = _offsets(left, planes.shape[-1], side)
    straight = pattern[rows[:, :, None], columns[:, None, :]]
    across = pattern.T[rows[:, :, None], columns[:, None, :]]
    placed = torch.where(turned[:, None, None], across, straight)
    return (placed * row_inside[:, :, None] * column_inside[:, None, :]).unsqueeze(1)


def _windows(top: Tensor, left: Tensor, planes: Tensor, side: int) -> Tensor:
    """Return masks (B, 1, H, W) of windows whose corners are drawn by `top` and `left`, U[0, 1) per row."""
    inside = [_offsets(draw, size, side)[1] for draw, size in zip((top, left), planes.shape[-2:], strict=True)]
    return (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1).to(planes)


def _offsets(draw: Tensor, size: int, side: int) -> tuple[Tensor, Tensor]:
    """Return for every position its place in the drawn window, and whether it lies within: (B, size) twice."""
    side = min(side, size)
    first = (draw * (size - side + 1)).long().clamp(max=size - side)
    offset = torch.arange(size, device=draw.device) - first[:, None]
    inside = (offset >= 0) & (offset < side)
    return offset.clamp(0, side - 1), inside


def _plane(x: Tensor) -> tuple[int, int]:
    height, width = _as_planes(x).shape[-2:]
    return height, width


def _as_planes(x: Tensor) -> Tensor:
    """Return images of any shape as (B, C, H, W)."""
    return x if x.dim() == 4 else x.reshape(len(x), 1, -1, x.shape[-1])
