"""Where an ascent starts. A start maps a Problem to a point of ball and box, and says what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from unmask.attacks.problem import Problem, input_gradient
from unmask.errors import DataError


class Started(NamedTuple):
    """The first iterates (B, ...) and the passes that finding them took: per example (B,), or one number for all."""

    x_adv: Tensor
    forwards: int | Tensor = 0
    backwards: int | Tensor = 0

    def select(self, rows: Tensor) -> Started:
        """Return some rows (bool mask or indices)."""
        forwards, backwards = (
            passes[rows] if isinstance(passes, Tensor) else passes for passes in (self.forwards, self.backwards)
        )
        return Started(self.x_adv[rows], forwards, backwards)


Start = Callable[[Problem], Started]


def clean() -> Start:
    """Start at the clean image."""
    return lambda problem: Started(problem.x)


def uniform() -> Start:
    """Start at a uniform random point of the ball (Madry et al. 2017)."""
    return lambda problem: Started(problem.threat.uniform(problem.x, problem.streams))


def corners() -> Start:
    """Start at a random extreme point of ball and box."""
    return lambda problem: Started(problem.threat.corner(problem.x, problem.streams))


def random_step(share: float) -> Start:
    """Start one random steepest step of `share` * eps away from the clean image (R+FGSM, Tramer et al. 2018)."""

    def start(problem: Problem) -> Started:
        noise = problem.streams.normal(problem.x.shape[1:]).to(problem.x)
        step = problem.threat.steepest_step(noise, problem.x, share * problem.threat.eps)
        return Started(problem.threat.project(problem.x + step, problem.x))

    return start


def at(x_adv: Tensor) -> Start:
    """Start at given points (B, ...), projected onto ball and box. For a single run: restarts would repeat it."""

    def start(problem: Problem) -> Started:
        if x_adv.shape != problem.x.shape:
            raise DataError(
                f"Start points came in shape {tuple(x_adv.shape)} for images of shape {tuple(problem.x.shape)}; give "
                "one point per image, and no restarts: those attack the survivors alone, from new points."
            )
        return Started(problem.threat.project(x_adv, problem.x))

    return start


def output_diversified(steps: int = 2, step_share: float = 1.0) -> Start:
    """Start by ascending a random direction w . z of the logits, w ~ U(-1, 1)^K (ODI, Tashiro et al. 2020)."""

    def start(problem: Problem) -> Started:
        x_adv = problem.threat.uniform(problem.x, problem.streams)
        direction: Tensor | None = None
        backwards = 0
        for _ in range(steps):
            leaf, logits, _ = problem.forward(x_adv, graph=True)
            if direction is None:
                direction = 2 * problem.streams.uniform(logits.shape[1:]).to(logits) - 1
            gradient = input_gradient((direction * logits).sum(1), leaf)
            backwards += int(logits.requires_grad)
            step = problem.threat.steepest_step(gradient, x_adv, step_share * problem.threat.eps)
            x_adv = problem.threat.project(x_adv + step, problem.x)
        return Started(x_adv, forwards=steps, backwards=backwards)

    return start


def noised(start: Start, sigma: float) -> Start:
    """Start at another start's point with Gaussian noise of standard deviation sigma (in pixels), projected."""

    def moved(problem: Problem) -> Started:
        started = start(replace(problem, streams=problem.streams.child("origin")))
        noise = sigma * problem.streams.normal(problem.x.shape[1:]).to(problem.x)
        return started._replace(x_adv=problem.threat.project(started.x_adv + noise, problem.x))

    return moved
