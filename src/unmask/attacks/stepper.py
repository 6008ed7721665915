"""How an ascent moves. A stepper is a pair of pure functions, as in optax: `init` makes its state, `update` moves.

State is a dictionary of tensors whose first axis is the example, so that the engine can drop broken examples from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.attacks.problem import Problem

State = dict[str, Tensor]


class Clock(NamedTuple):
    """Which step of how many is being made (0-based)."""

    step: int
    steps: int


class Stepper(NamedTuple):
    """`init(problem, x_adv) -> state`; `update(problem, x_adv, gradient, values, state, clock) -> (x_adv, state)`.

    `values` (B,) is the ascended loss at x_adv.
    """

    init: Callable[[Problem, Tensor], State]
    update: Callable[[Problem, Tensor, Tensor, Tensor, State, Clock], tuple[Tensor, State]]


Schedule = Callable[[Clock, float], float]


def fixed(step_size: float, *, accumulate: float | None = None) -> Stepper:
    """Take steepest steps of a constant size in pixels. `accumulate` as in `_steepest`."""
    return _steepest(lambda clock, eps: step_size, accumulate=accumulate)


def cosine(share: float, *, stages: int = 1, momentum: float | None = None, accumulate: float | None = None) -> Stepper:
    """Take steepest steps that shrink from `share` * eps to 0 along a half cosine, anew in each of equal `stages`.

    The other options are those of `_steepest`.
    """

    def schedule(clock: Clock, eps: float) -> float:
        done = clock.step * stages % clock.steps / clock.steps
        return share * eps * (1 + math.cos(math.pi * done)) / 2

    return _steepest(schedule, momentum=momentum, accumulate=accumulate)


def decaying(share: float, rate: float, every: int = 1, *, momentum: float | None = None) -> Stepper:
    """Take steepest steps of `share` * eps, multiplied by `rate` after every `every` steps."""
    return _steepest(lambda clock, eps: share * eps * rate ** (clock.step // every), momentum=momentum)


def dropping(share: float, rate: float, at: Sequence[float]) -> Stepper:
    """Take steepest steps of `share` * eps, multiplied by `rate` once each share `at` of all steps is done."""
    return _steepest(lambda clock, eps: share * eps * rate ** sum(clock.step >= done * clock.steps for done in at))


def adam(step_size: float, beta1: float = 0.9, beta2: float = 0.999, tiny: float = 1e-8) -> Stepper:
    """Take Adam steps (Kingma & Ba 2015) of `step_size` pixels, projected; for noisy gradient estimates."""

    def init(problem: Problem, x_adv: Tensor) -> State:
        return {"first": torch.zeros_like(x_adv), "second": torch.zeros_like(x_adv)}

    def update(
        problem: Problem, x_adv: Tensor, gradient: Tensor, values: Tensor, state: State, clock: Clock
    ) -> tuple[Tensor, State]:
        first = beta1 * state["first"] + (1 - beta1) * gradient
        second = beta2 * state["second"] + (1 - beta2) * gradient.square()
        count = clock.step + 1
        step = (first / (1 - beta1**count)) / ((second / (1 - beta2**count)).sqrt() + tiny)
        return problem.threat.project(x_adv + step_size * step, problem.x), {"first": first, "second": second}

    return Stepper(init, update)


def _steepest(schedule: Schedule, *, momentum: float | None = None, accumulate: float | None = None) -> Stepper:
    """Build a stepper of projected steepest steps.

    `momentum` a mixes the new point z with the last move, x + a (z - x) + (1 - a) (x - x_previous) (APGD, Croce & Hein
    2020). `accumulate` mu replaces the gradient by mu times the accumulated one plus the L1-normalised new one
    (MI-FGSM, Dong et al. 2018).
    """

    def init(problem: Problem, x_adv: Tensor) -> State:
        state = {} if momentum is None else {"previous": x_adv}
        return state if accumulate is None else {**state, "accumulated": torch.zeros_like(x_adv)}

    def update(
        problem: Problem, x_adv: Tensor, gradient: Tensor, values: Tensor, state: State, clock: Clock
    ) -> tuple[Tensor, State]:
        threat, x = problem.threat, problem.x
        new: State = {}
        if accumulate is not None:
            size = gradient.flatten(1).abs().sum(1).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = accumulate * state["accumulated"] + gradient / size.view(-1, *[1] * (x.dim() - 1))
            new["accumulated"] = gradient
        moved = threat.project(x_adv + threat.steepest_step(gradient, x_adv, schedule(clock, threat.eps)), x)
        if momentum is not None:
            if clock.step > 0:
                moved = mixed(problem, x_adv, moved, state["previous"], momentum)
            new["previous"] = x_adv
        return moved, new

    return Stepper(init, update)


def mixed(problem: Problem, x_adv: Tensor, moved: Tensor, previous: Tensor, momentum: float) -> Tensor:
    """Return x + momentum (moved - x) + (1 - momentum) (x - previous), projected (Croce & Hein 2020, Algorithm 1)."""
    point = x_adv + momentum * (moved - x_adv) + (1 - momentum) * (x_adv - previous)
    return problem.threat.project(point, problem.x)
