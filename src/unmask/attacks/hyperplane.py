"""How far a hyperplane is in each norm, and the smallest move onto it within the pixel box."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.threat import Norm

DUAL_ORDERS: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


def distance_to_hyperplane(normal: Tensor, gap: Tensor, *, norm: Norm) -> Tensor:
    """Return the norm of the least delta with <normal, delta> = gap, without a box: |gap| / the normal's dual norm.

    normal (B, ...), gap (B,) -> float64 (B,); infinite where the normal is zero.
    """
    steepness = torch.linalg.vector_norm(normal.flatten(1).double(), ord=DUAL_ORDERS[norm], dim=1)
    return torch.where(steepness > 0, gap.double().abs() / steepness, torch.inf)


def move_to_hyperplane(x: Tensor, normal: Tensor, gap: Tensor, *, norm: Norm, low: float, high: float) -> Tensor:
    """Return the move delta of least norm with <normal, delta> = gap and x + delta in [low, high].

    x (B, D) in the box, normal (B, D), gap (B,) -> (B, D). Where the box does not reach the hyperplane, the move to the
    corner nearest to it; where the normal is zero, no move. Solved exactly by sorting, in float64 (Croce & Hein
    2020, Eq. 4 to 6): every pixel moves by min(level * weight, room), with weights 1 for Linf and |normal| for L2, or
    for L1 by its whole room in the order of |normal|, until the gap is closed.
    """
    direction = gap.sign().unsqueeze(1) * normal.sign()
    room = torch.where(direction > 0, high - x, x - low).clamp(min=0).double()
    size = normal.abs().double()
    largest = size.amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    gain, need = size / scale, gap.abs().double().unsqueeze(1) / scale
    if norm == "l1":
        amounts = _by_gain(gain, room, need)
    else:
        amounts = _by_level(gain, gain if norm == "l2" else (gain > 0).double(), room, need)
    return (amounts * direction).to(x.dtype)


def _by_gain(gain: Tensor, room: Tensor, need: Tensor) -> Tensor:
    order = gain.argsort(dim=1, descending=True, stable=True)
    gain, room_sorted = gain.gather(1, order), room.gather(1, order)
    closed = gain * room_sorted
    left = (need - (closed.cumsum(1) - closed)).clamp(min=0)
    amounts = torch.minimum(torch.where(gain > 0, left / gain, 0.0), room_sorted)
    return torch.zeros_like(room).scatter(1, order, amounts)


def _by_level(gain: Tensor, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Return min(level * weight, room) with the smallest level at which the sum of gain * amount is `need`.

    The sum grows with the level, piecewise linearly: beyond room / weight a pixel stays where it is.
    """
    breakpoints, order = torch.where(weight > 0, room / weight, torch.inf).sort(dim=1)
    stopped = (gain * room).gather(1, order)
    stopped = stopped.cumsum(1) - stopped
    slope = (gain * weight).gather(1, order).flip(1).cumsum(1).flip(1)
    at_breakpoint = stopped + torch.where(slope > 0, breakpoints * slope, torch.inf)
    segment = (at_breakpoint < need).sum(1, keepdim=True).clamp(max=gain.shape[1] - 1)
    rest = (need - stopped.gather(1, segment)).clamp(min=0)
    level = rest / slope.gather(1, segment).clamp(min=torch.finfo(torch.float64).eps)
    return torch.minimum(level * weight, room)
