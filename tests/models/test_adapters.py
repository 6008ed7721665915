"""Models that return probabilities become models that return logits, and others are told apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask.errors import ModelError
from unmask.models import from_probabilities

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
