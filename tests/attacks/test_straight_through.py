"""Gradients past operations that have none, against those of the same model without the operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.attacks import cosine_pgd
from unmask.attacks.straight_through import Reach, StraightThrough, reach
from unmask.losses import margin
from unmask.threat import Linf

WEIGHTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1])
LEVELS = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1)


def out_of_sight(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 1


BLOCKS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "rounded": (lambda x: (x * 4).round() / 4, "round"),
    "rounded by a function": (lambda x: torch.floor(x * 8).div(8), "floor"),
    "thresholded": (lambda x: (x >= 0.5).to(x), "ge"),
    "thresholded by a function": (lambda x: torch.gt(x, 0.5).float(), "gt"),
    "inverted": (lambda x: 1 - (x < 0.5).float(), "lt"),
    "signed": (lambda x: (x - 0.5).sign(), "sign"),
    "detached": (lambda x: x.detach(), "detach"),
    "without gradients": (out_of_sight, "no_grad"),
    "cast to bytes": (lambda x: (x * 255).to(torch.uint8).float() / 255, "cast"),
    "cast and divided": (lambda x: (x * 16).int() / 16, "cast"),
    "thermometer": (lambda x: (x > LEVELS).float().mean(1, keepdim=True), "gt"),
    "reshaped before it is a float": (lambda x: (x > 0.5).reshape(x.shape).double().to(x), "gt"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_value_stays_and_the_gradient_is_that_of_the_argument(name):
    block, operation = BLOCKS[name]

    def logits(x: Tensor) -> Tensor:
        return block(x).flatten(1) @ WEIGHTS

    through = StraightThrough(logits)
    leaf = X.clone().requires_grad_()
    answers = through(leaf)
    assert torch.equal(answers.detach(), logits(X)) and operation in through.met
    (gradient,) = torch.autograd.grad(margin(answers, Y).sum(), leaf)
    other = X.clone().requires_grad_()
    smoothed = other.flatten(1) @ WEIGHTS
    runner_up = logits(X).scatter(1, Y[:, None], -torch.inf).argmax(1)
    rows = torch.arange(len(X))
    (expected,) = torch.autograd.grad((smoothed[rows, runner_up] - smoothed[rows, Y]).sum(), other)
    assert torch.allclose(gradient, expected, atol=1e-6)
    found = reach(logits, X, Y)
    assert not found.own and found.blocked == (operation,)


def test_a_choice_by_comparison_gets_the_difference_of_its_sides():
    through = StraightThrough(lambda x: torch.where(x > 0.5, 3.0, -1.0).flatten(1) @ WEIGHTS)
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(through(leaf)[:, 0].sum(), leaf)
    assert torch.allclose(gradient.flatten(1), 4 * WEIGHTS[:, 0].expand(5, -1))


def test_an_honest_model_has_nothing_to_look_past():
    assert reach(lambda x: x.relu().flatten(1) @ WEIGHTS, X, Y) == Reach(own=True, blocked=())


def test_half_a_model_behind_a_wall_has_both_gradients():
    found = reach(lambda x: (x + (3 * x).detach()).flatten(1) @ WEIGHTS, X, Y)
    assert found == Reach(own=True, blocked=("detach",))


def test_true_comparisons_still_select_and_true_numbers_still_index():
    table = torch.arange(17.0)
    masked = StraightThrough(lambda x: x.masked_fill(x > 0.5, 1.0).flatten(1) @ WEIGHTS)
    assert torch.equal(masked(X), X.masked_fill(X > 0.5, 1.0).flatten(1) @ WEIGHTS)
    looked_up = StraightThrough(lambda x: table[(16 * x).long()].flatten(1) @ WEIGHTS)
    assert torch.equal(looked_up(X.clone().requires_grad_()), table[(16 * X).long()].flatten(1) @ WEIGHTS)


def test_a_model_that_cannot_be_looked_through_is_left_as_it_is():
    table = torch.arange(20.0)
    assert reach(lambda x: table[(16 * x).long() + 1].flatten(1) @ WEIGHTS, X, Y) == Reach(own=False, blocked=())
    assert reach(lambda x: torch.from_numpy(x.detach().numpy()).flatten(1) @ WEIGHTS, X, Y) == Reach(own=False)
    assert reach(lambda x: torch.from_numpy(x.numpy()).flatten(1) @ WEIGHTS, X, Y) == Reach()


def test_an_attack_reaches_the_optimum_behind_a_threshold():
    def logits(x: Tensor) -> Tensor:
        return (x >= 0.5).to(x).flatten(1) @ WEIGHTS

    threat = Linf(0.3)
    found = cosine_pgd(StraightThrough(logits), X, Y, threat=threat, steps=20, generator=torch.Generator())
    shown = (X >= 0.5).float()[..., None]
    down, up = (X - 0.3 >= 0.5).float()[..., None], (X + 0.3 >= 0.5).float()[..., None]
    effect = (WEIGHTS[None] - WEIGHTS.T[Y][:, :, None]).view(5, 1, 4, 4, 3)
    best = torch.maximum(torch.maximum(shown * effect, down * effect), up * effect).sum((1, 2, 3))
    best.scatter_(1, Y[:, None], -torch.inf)
    assert torch.equal(found.broken, best.amax(1) > 0)
