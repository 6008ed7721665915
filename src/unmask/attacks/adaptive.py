"""APGD's steppers: the climb's own progress decides how large the steps are and when it goes back to its best point."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.attacks.problem import Problem
from unmask.attacks.stepper import Clock, State, Stepper, mixed


def checkpoints(steps: int) -> dict[int, int]:
    """Return the steps at which APGD checks its progress, each with how many steps it looks back.

    They are at shares p of all steps, p_1 = .22, each interval shorter than the last by .03 and at least .06 (Croce &
    Hein 2020, Section 4.1).
    """
    spans: dict[int, int] = {}
    last, percent, interval = 0, 22, 22
    while percent < 100:
        step = -(-percent * steps // 100)
        if step > last:
            spans[step] = step - last
        last, interval = step, max(interval - 3, 6)
        percent += interval
    return spans


def adaptive(share: float = 2.0, *, momentum: float = 0.75, patience: float = 0.75) -> Stepper:
    """Take steepest steps with momentum from `share` * eps, halved where they do not pay (Croce & Hein 2020, Alg. 1).

    At a checkpoint an example's step is halved and it goes back to its best point if fewer than `patience` of the steps
    since the last one raised its loss, or if neither its step nor its best loss has changed since. For Linf and L2.
    """

    def init(problem: Problem, x_adv: Tensor) -> State:
        row = x_adv.new_ones(len(x_adv))
        return {
            **_nothing_known(x_adv),
            "previous": x_adv,
            "size": share * problem.threat.eps * row,
            "last_value": torch.inf * row,
            "rises": 0 * row,
            "checked_value": -torch.inf * row,
            "halved": torch.zeros_like(row, dtype=torch.bool),
        }

    def update(
        problem: Problem, x_adv: Tensor, gradient: Tensor, values: Tensor, state: State, clock: Clock
    ) -> tuple[Tensor, State]:
        values = values.to(x_adv)
        state = {**state, **_noted(state, x_adv, gradient, values)}
        rises, size = state["rises"] + (values > state["last_value"]), state["size"]
        span = checkpoints(clock.steps).get(clock.step)
        if span is not None:
            stuck = ~state["halved"] & (state["best_value"] <= state["checked_value"])
            halved = (rises < patience * span) | stuck
            x_adv, gradient = _returned(halved, state, x_adv, gradient)
            values = values.where(~halved, state["best_value"])
            rises, size = torch.zeros_like(rises), size.where(~halved, size / 2)
            state = {**state, "checked_value": state["best_value"], "halved": halved}
        moved = problem.threat.project(x_adv + problem.threat.steepest_step(gradient, x_adv, size), problem.x)
        if clock.step > 0:
            moved = mixed(problem, x_adv, moved, state["previous"], momentum)
        return moved, {**state, "previous": x_adv, "size": size, "rises": rises, "last_value": values}

    return Stepper(init, update)


def sparse() -> Stepper:
    """Take L1 steps of equal size on few pixels, as few as the best point has changed (Croce & Hein 2021, Alg. 1).

    Steps start at eps, on a fifth of the pixels. After every 4% of the steps they turn to 2/3 as many pixels as the
    best point has changed. If those have become fewer than 95% of what they were, the example goes back to its best
    point and to steps of eps, else its step shrinks by 1.5 down to eps / 10. Where all of these pixels are at their
    bounds already the step takes others, unlike the paper's.
    """

    def init(problem: Problem, x_adv: Tensor) -> State:
        row = x_adv.new_ones(len(x_adv))
        pixels = x_adv.shape[1:].numel()
        return {
            **_nothing_known(x_adv),
            "size": problem.threat.eps * row,
            "pixels": pixels / 5 * row,
            "changed": pixels * row,
        }

    def update(
        problem: Problem, x_adv: Tensor, gradient: Tensor, values: Tensor, state: State, clock: Clock
    ) -> tuple[Tensor, State]:
        eps, x = problem.threat.eps, problem.x
        state = {**state, **_noted(state, x_adv, gradient, values.to(x_adv))}
        if clock.step > 0 and clock.step % max(-(-4 * clock.steps // 100), 1) == 0:
            changed = (state["best_x_adv"] != x).flatten(1).sum(1).to(x)
            sparser = changed < 0.95 * state["changed"]
            x_adv, gradient = _returned(sparser, state, x_adv, gradient)
            smaller = (state["size"] / 1.5).clamp(min=eps / 10)
            size = torch.where(sparser, torch.full_like(smaller, eps), smaller)
            state = {**state, "size": size, "pixels": changed / 1.5, "changed": changed}
        signs = _strongest(gradient, state["pixels"])
        free = _movable(problem, x_adv, gradient)
        stuck = ~(free & (signs != 0)).flatten(1).any(1)
        signs = torch.where(_like(stuck, x), _strongest(gradient * free, state["pixels"]), signs)
        step = state["size"] / signs.abs().flatten(1).sum(1).clamp(min=1)
        return problem.threat.project(x_adv + _like(step, x) * signs, x), state

    return Stepper(init, update)


def _movable(problem: Problem, x_adv: Tensor, gradient: Tensor) -> Tensor:
    return torch.where(gradient > 0, x_adv < problem.threat.high, x_adv > problem.threat.low)


def _strongest(gradient: Tensor, count: Tensor) -> Tensor:
    """Return the signs of the `count` (B,) largest entries of the gradient (B, ...), else zero."""
    order = gradient.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, rank < count.floor().clamp(min=1).view(-1, 1))
    return gradient.sign() * chosen.view_as(gradient)


def _nothing_known(x_adv: Tensor) -> State:
    worst = x_adv.new_full((len(x_adv),), -torch.inf)
    return {"best_value": worst, "best_x_adv": x_adv, "best_gradient": torch.zeros_like(x_adv)}


def _noted(state: State, x_adv: Tensor, gradient: Tensor, values: Tensor) -> State:
    better = values > state["best_value"]
    return {
        "best_value": torch.where(better, values, state["best_value"]),
        "best_x_adv": torch.where(_like(better, x_adv), x_adv, state["best_x_adv"]),
        "best_gradient": torch.where(_like(better, x_adv), gradient, state["best_gradient"]),
    }


def _returned(rows: Tensor, state: State, x_adv: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Take some rows (B,) bool back to their best point, with its gradient."""
    back = _like(rows, x_adv)
    return torch.where(back, state["best_x_adv"], x_adv), torch.where(back, state["best_gradient"], gradient)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (x.dim() - 1))
