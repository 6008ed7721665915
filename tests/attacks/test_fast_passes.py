"""Attacks run a module in another layout and by slices; it must stay the same model, and untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.attacks import fab, half_precision, pgd, square
from unmask.attacks.ascent import SLICE
from unmask.attacks.fast_passes import FastPasses, fast_passes, full_precision
from unmask.streams import Streams

X = torch.rand(SLICE + 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(end: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, end or nn.Flatten(), nn.Linear(512, 4)).eval()


class AsRows(nn.Module):
    """Views activations as rows, which fails for another layout than the usual one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.conv(x).flatten(1)


@pytest.mark.parametrize("end", [nn.Flatten(), AsRows()], ids=["any layout", "usual layout alone"])
def test_the_model_stays_the_same(end):
    model = network(end)
    fast = fast_passes(model, X)
    assert isinstance(fast, FastPasses)
    gradients = []
    for run in (model, fast):
        x = X.clone().requires_grad_()
        logits = run(x)
        gradients.append(torch.autograd.grad(logits.square().sum(), x)[0])
        torch.testing.assert_close(logits, model(X), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_users_weights_keep_their_layout_and_get_no_gradient():
    model = network()
    before = {
        name: (weight.clone(), weight.stride(), weight.requires_grad) for name, weight in model.named_parameters()
    }
    pgd(model, X, torch.zeros(len(X), dtype=torch.int64), threat=unmask.Linf(0.1), steps=2)
    for name, weight in model.named_parameters():
        value, stride, learns = before[name]
        assert torch.equal(weight, value) and weight.stride() == stride and weight.requires_grad == learns
        assert weight.grad is None


def test_a_large_batch_is_attacked_by_slices_with_the_same_draws():
    model, y = Noting().eval(), torch.zeros(len(X), dtype=torch.int64)
    whole = pgd(model, X, y, threat=unmask.Linf(0.01), steps=2, generator=Streams.derive(0, range(len(X))))
    assert max(model.seen) == SLICE and sum(model.seen) == int(whole.forwards.sum())
    last = pgd(
        model, X[-5:], y[-5:], threat=unmask.Linf(0.01), steps=2, generator=Streams.derive(0, range(len(X))[-5:])
    )
    torch.testing.assert_close(whole.x_adv[-5:], last.x_adv)
    assert torch.equal(whole.forwards[-5:], last.forwards) and whole.trace.shape == (3, len(X))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_what_is_no_convolutional_module_is_left_alone():
    def function(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]

    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    traced = torch.jit.trace(network(), X)
    fast = fast_passes(network(), X)
    for model in (function, linear, traced, fast):
        assert fast_passes(model, X) is model


Y = torch.zeros(len(X), dtype=torch.int64)
THREAT = unmask.Linf(0.05)


class Watched(nn.Module):
    """Notes the type of its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.types: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        self.types.append(logits.dtype)
        return logits


def test_gradients_are_taken_in_bf16_and_breaks_are_judged_in_fp32():
    model = Watched().eval()
    x = X.clone().requires_grad_()
    half = half_precision(model)
    logits = half(x)
    assert model.types.pop() == torch.bfloat16 and logits.dtype == torch.float32
    slope = torch.autograd.grad(logits.sum(), x)[0]
    assert slope.dtype == torch.float32 and bool(slope.any())
    half(X)
    assert model.types.pop() == torch.float32
    assert full_precision(half)(x).dtype == torch.float32 and model.types.pop() == torch.float32


def test_every_break_of_an_attack_in_bf16_is_one_in_fp32_and_it_costs_the_passes_that_say_so():
    """Logits so close that bf16 rounds them to one number: its word alone would be worth nothing."""
    model = network()
    with torch.no_grad():
        model[-1].weight.mul_(1e-2)
        model[-1].bias.add_(torch.tensor([8.0, 8.0, 8.0, 8.0]))
    exact = pgd(model, X, Y, threat=THREAT, steps=10, generator=Streams.derive(0, range(len(X))))
    found = pgd(half_precision(model), X, Y, threat=THREAT, steps=10, generator=Streams.derive(0, range(len(X))))
    with torch.no_grad():
        assert torch.equal(found.broken, model(found.x_adv).argmax(1) != Y)
    assert (found.forwards >= 1).all() and found.broken.sum() > 0.5 * exact.broken.sum() > 0


def test_attacks_outside_of_the_engine_go_on_in_full_precision():
    model = Watched().eval()
    fab(half_precision(model), X[:4], Y[:4], threat=THREAT, steps=3)
    square(half_precision(model), X[:4], Y[:4], threat=THREAT, queries=3)
    assert model.types and set(model.types) == {torch.float32}


def test_a_function_has_no_other_precision():
    def function(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]

    assert half_precision(function) is function and full_precision(function) is function
