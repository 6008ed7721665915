"""How an ascent learns which way is up. An estimator returns the gradient of the loss by the image, and its cost.

The engine has already run the model on the iterate; it passes the loss values (with their graph, if the estimator asks
for one) and the rows that are still unbroken. Only those rows' gradients are returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.attacks.problem import Problem, input_gradient
from unmask.errors import AuditError
from unmask.streams import Streams


class Estimate(NamedTuple):
    """A gradient for the kept rows (S, ...), the further passes of each kept row, and backwards of the whole batch."""

    gradient: Tensor
    forwards: int
    backwards: int
    batch_backwards: int


class Estimator(NamedTuple):
    """Whether the iterate's forward pass must keep its graph, and the function that estimates the gradient."""

    needs_graph: bool
    estimate: Callable[[Problem, Tensor, Tensor, Tensor], Estimate]


def exact() -> Estimator:
    """Return the model's own gradient: one backward pass."""

    def estimate(problem: Problem, x_adv: Tensor, values: Tensor, kept: Tensor) -> Estimate:
        backwards = int(values.requires_grad)
        return Estimate(input_gradient(values, x_adv)[kept], 0, 0, backwards)

    return Estimator(True, estimate)


def unneeded() -> Estimator:
    """Return no direction: for steppers that search at random. Costs nothing."""

    def estimate(problem: Problem, x_adv: Tensor, values: Tensor, kept: Tensor) -> Estimate:
        return Estimate(torch.zeros_like(x_adv[kept]), 0, 0, 0)

    return Estimator(False, estimate)


def smoothed(sigma: float, samples: int = 1) -> Estimator:
    """Return the mean of the model's gradient and `samples` more at x_adv + N(0, sigma^2), sigma in pixels.

    On jagged loss surfaces (CLP, LSQ) the mean points along the trend that single gradients miss.
    """
    return _mean(samples, lambda streams, x_adv: x_adv + sigma * streams.normal(x_adv.shape[1:]).to(x_adv))


def expected(samples: int) -> Estimator:
    """Return the mean gradient of `samples` passes over the same image: expectation over transformation.

    For models that answer at random (Athalye et al. 2018, "Obfuscated gradients", Section 4.2): the variance of the
    gradient falls with 1 / `samples`. Costs `samples` - 1 further forwards and backwards per step. Each iterate is
    still judged by a single pass, as good as the model's draw; where its mean answer is meant, attack
    `unmask.models.expectation(model, samples)` instead. Raises AuditError for fewer than one sample.

        problem = pose(model, x, y, threat=threat, generator=generator)
        result = ascend(problem, start=uniform(), stepper=fixed(0.01), steps=40, gradient=expected(16))
    """
    if samples < 1:
        raise AuditError(f"samples is {samples}; expected 1 (the gradient of a single pass) or more.")
    return _mean(samples - 1, lambda streams, x_adv: x_adv)


def _mean(further: int, point: Callable[[Streams, Tensor], Tensor]) -> Estimator:
    """Return the mean of the model's gradient and `further` more, each at a point drawn for it."""

    def estimate(problem: Problem, x_adv: Tensor, values: Tensor, kept: Tensor) -> Estimate:
        backwards = int(values.requires_grad)
        gradient = input_gradient(values, x_adv)[kept]
        survivors = problem.select(kept)
        here = x_adv.detach()[kept]
        for _ in range(further):
            leaf, _, drawn = survivors.forward(point(survivors.streams, here), graph=True)
            gradient = gradient + input_gradient(drawn, leaf)
        return Estimate(gradient / (further + 1), further, further * backwards, backwards)

    return Estimator(True, estimate)


def spsa(delta: float = 0.01, samples: int = 128) -> Estimator:
    """Return a gradient from loss values alone, by simultaneous perturbation (Spall 1992; Uesato et al. 2018).

    Each of the `samples` draws a sign vector v and adds (f(x + delta v) - f(x - delta v)) / (2 delta) * v; two
    forwards.
    """

    @torch.no_grad()
    def estimate(problem: Problem, x_adv: Tensor, values: Tensor, kept: Tensor) -> Estimate:
        survivors = problem.select(kept)
        here = x_adv.detach()[kept]
        gradient = torch.zeros_like(here)
        for _ in range(samples):
            signs = survivors.streams.signs(here.shape[1:]).to(here)
            up = survivors.value(survivors.logits(here + delta * signs))
            down = survivors.value(survivors.logits(here - delta * signs))
            gradient += ((up - down) / (2 * delta)).view(-1, *[1] * (here.dim() - 1)) * signs
        return Estimate(gradient / samples, 2 * samples, 0, 0)

    return Estimator(False, estimate)
