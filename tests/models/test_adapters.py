"""Models that return probabilities become models that return logits; hidden gradients come to light."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask.attacks import pgd
from unmask.errors import ModelError
from unmask.losses import margin, predictions
from unmask.models import bpda, expectation, from_probabilities
from unmask.threat import Linf

IMAGES = torch.zeros(2, 1, 2, 2)


def constant(rows: object, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6))
def test_the_softmax_of_the_result_is_the_given_distribution(row: list[float]) -> None:
    p = torch.tensor([row], dtype=torch.float64).softmax(1)
    torch.testing.assert_close(from_probabilities(lambda x: p)(IMAGES).softmax(1), p)


def test_the_gradient_is_that_of_the_log_softmax() -> None:
    z = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    from_probabilities(lambda x: x.softmax(1))(z)[0, 1].backward()
    assert z.grad is not None
    expected = torch.tensor([0.0, 1.0, 0.0]) - z.detach().softmax(1)[0]
    torch.testing.assert_close(z.grad[0], expected)


def test_probability_zero_stays_finite_and_last() -> None:
    z = from_probabilities(lambda x: constant([[1.0, 0.0, 0.0]]))(IMAGES)
    assert z.isfinite().all()
    assert z.argmax() == 0
    assert z[0, 1] < -80


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_in_16_bits_are_understood(dtype: torch.dtype) -> None:
    p = torch.linspace(-3, 3, 100)[None].softmax(1).to(dtype)
    z = from_probabilities(lambda x: p)(IMAGES)
    assert z.dtype == torch.float32
    assert z.isfinite().all()


def test_a_wrapped_module_keeps_its_parameters_and_mode() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5), nn.Softmax(1))
    wrapped = from_probabilities(inner).eval()
    assert len(list(wrapped.parameters())) == 2
    assert not inner.training
    torch.testing.assert_close(wrapped(IMAGES).exp(), inner(IMAGES))


def test_an_empty_batch_passes() -> None:
    assert from_probabilities(lambda x: torch.zeros(0, 3))(IMAGES[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (constant([[2.0, -1.0]]), "smallest entry -1"),
        (constant([[0.5, 0.2]]), r"sum to 0\.7"),
        (constant([[0.5, 0.5], [3.0, 1.0]]), "up to 4"),
        (constant([[float("nan"), 1.0]]), "sum to nan"),
        (constant([[0.7], [0.3]]), r"shape \(2, 1\)"),
        (constant([0.5, 0.5]), r"shape \(2,\)"),
        (constant([[1, 0]], torch.int64), "torch.int64"),
    ],
)
def test_what_is_not_a_distribution_is_refused(output: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_probabilities(lambda x: output)(IMAGES)


def test_logits_are_told_to_stay_as_they_are() -> None:
    with pytest.raises(ModelError, match="returns logits, use it as it is"):
        from_probabilities(lambda x: constant([[4.0, -3.0, 1.0]]))(IMAGES)


# -- expectation -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    return net


def pictures(count: int) -> Tensor:
    return torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def noisy(net: nn.Module, sigma: float) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    return lambda x: net(x + sigma * torch.randn(x.shape, generator=generator))


def test_the_mean_of_the_logits_is_returned_with_its_gradient() -> None:
    answers = iter([2.0, 4.0, 9.0])
    x = torch.ones(1, 2, requires_grad=True)
    logits = expectation(lambda x: next(answers) * x, 3)(x)
    torch.testing.assert_close(logits, torch.full((1, 2), 5.0))
    logits.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((1, 2), 5.0))


def test_a_random_defence_falls_to_the_mean_of_many_draws() -> None:
    net, x = network(), pictures(100)
    y, threat = predictions(net(x)), Linf("0.1")
    figures = []
    for samples in (1, 16):
        model = expectation(noisy(net, 1.0), samples)
        x_adv = pgd(model, x, y, threat=threat, steps=10, step_size=0.02, loss=margin).x_adv
        judge = expectation(noisy(net, 1.0), 200)
        figures.append((predictions(judge(x_adv)) == y).float().mean().item())
    assert figures[1] < figures[0] - 0.05


def test_a_wrapped_random_module_keeps_its_parameters_and_mode() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))
    wrapped = expectation(inner, 4).eval()
    assert len(list(wrapped.parameters())) == 2 and not inner.training
    torch.testing.assert_close(wrapped(IMAGES), inner(IMAGES))


def test_an_expectation_needs_samples_and_logits() -> None:
    with pytest.raises(ModelError, match="samples=0; expected 1"):
        expectation(network(), 0)
    with pytest.raises(ModelError, match=r"shape \(2,\)"):
        expectation(lambda x: x.flatten(1).sum(1), 2)(IMAGES)


# -- bpda ------------------------------------------------------------------------------------------------------------


def test_the_value_is_of_one_function_and_the_gradient_of_another() -> None:
    x = torch.tensor([[0.2, 0.7]], requires_grad=True)
    result = bpda(torch.round, lambda x: 3 * x)(x)
    assert torch.equal(result, torch.tensor([[0.0, 1.0]]))
    (result * torch.tensor([[1.0, 10.0]])).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[3.0, 30.0]]))


def test_the_value_is_exact_where_the_stand_in_is_far_larger() -> None:
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bpda(torch.round, lambda x: 1e8 * x)(x), x.round())


def test_a_rounding_defence_falls_behind_its_stand_in() -> None:
    net, x = network(), pictures(40)

    def quantise(x: Tensor) -> Tensor:
        return (x * 15).round() / 15

    y, threat = predictions(net(quantise(x))), Linf("0.1")
    assert not pgd(lambda x: net(quantise(x)), x, y, threat=threat, start=lambda p: (p.x, 0, 0)).broken.any()
    result = pgd(lambda x: net(bpda(quantise)(x)), x, y, threat=threat, start=lambda p: (p.x, 0, 0))
    assert result.broken.float().mean() > 0.3
    assert torch.equal(predictions(net(quantise(result.x_adv))) != y, result.broken)


def test_a_black_box_borrows_the_gradients_of_a_model_at_hand() -> None:
    net, x = network(), pictures(40)
    y = predictions(net(x))
    mixed = bpda(lambda x: net(x).detach(), net)
    borrowed, own = (pgd(model, x, y, threat=Linf("0.1")) for model in (mixed, net))
    assert torch.equal(borrowed.x_adv, own.x_adv)
    assert borrowed.broken.any() and borrowed.backwards.any()


def test_modules_within_follow_the_whole() -> None:
    whole = bpda(nn.Dropout(0.5), nn.Linear(2, 2))
    assert len(list(whole.parameters())) == 2
    x = torch.rand(3, 2)
    assert torch.equal(whole.eval()(x), x)


def test_a_stand_in_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match=r"returned shape \(2, 4\).*its stand-in \(2, 1, 2, 2\); expected the same"):
        bpda(lambda x: x.flatten(1))(IMAGES)
