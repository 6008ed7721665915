"""Functions of NumPy arrays are models: asked as they wish, checked, and attackable without gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from unmask.attacks import spsa
from unmask.errors import ModelError
from unmask.losses import predictions
from unmask.models import from_numpy
from unmask.threat import Linf

X = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
WEIGHTS = np.random.default_rng(0).normal(size=(18, 3))


def scores(images: np.ndarray) -> np.ndarray:
    return (images.reshape(len(images), -1) @ WEIGHTS).astype(np.float32)


def softmax(images: np.ndarray) -> np.ndarray:
    powers = np.exp(scores(images).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def labels(images: np.ndarray) -> np.ndarray:
    return scores(images).argmax(axis=1)


def test_logits_come_back_as_they_are() -> None:
    model = from_numpy(scores)
    torch.testing.assert_close(model(X), torch.from_numpy(scores(X.numpy())))
    assert not model(X.requires_grad_()).requires_grad
    X.requires_grad_(False)


def test_probabilities_become_their_logarithms() -> None:
    logits = from_numpy(softmax, output="probabilities")(X)
    torch.testing.assert_close(logits.softmax(1), torch.from_numpy(softmax(X.numpy())))
    never = from_numpy(lambda images: np.eye(3)[labels(images)], output="probabilities")(X)
    assert never.isfinite().all()


def test_labels_become_logits_that_say_who_wins() -> None:
    logits = from_numpy(labels, output="labels", classes=4)(X)
    assert logits.shape == (5, 4) and logits.dtype == torch.float32
    assert torch.equal(predictions(logits), torch.from_numpy(labels(X.numpy())))
    assert sorted(logits.unique().tolist()) == [-1, 1]  # 0 and 1 would be taken for probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_function_gets_plain_arrays_of_its_own(dtype: torch.dtype) -> None:
    seen: list[np.ndarray] = []

    def service(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        assert images.dtype == np.float32 and images.flags.c_contiguous and images.flags.writeable
        answers = scores(images)
        images[:] = -1.0
        return answers

    x = X.to(dtype).to(memory_format=torch.channels_last)
    before = x.clone()
    from_numpy(service)(x)
    assert torch.equal(x, before)
    np.testing.assert_array_equal(seen[0], before.float().numpy())


def test_answers_in_a_buffer_that_is_used_again_are_kept() -> None:
    buffer = np.empty((2, 3), np.float32)

    def service(images: np.ndarray) -> np.ndarray:
        buffer[: len(images)] = scores(images)
        return buffer[: len(images)]

    torch.testing.assert_close(from_numpy(service, batch_size=2)(X), from_numpy(scores)(X))


def test_batches_are_no_larger_than_asked_and_change_nothing() -> None:
    sizes: list[int] = []

    def service(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return scores(images)

    torch.testing.assert_close(from_numpy(service, batch_size=2)(X), from_numpy(scores)(X))
    from_numpy(service)(X)
    assert sizes == [2, 2, 1, 5]


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_no_images_are_no_question(output: Any) -> None:
    def service(images: np.ndarray) -> np.ndarray:
        raise AssertionError("asked about nothing")

    assert from_numpy(service, output=output, classes=3)(X[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("answers", "settings", "message"),
    [
        (lambda n: np.zeros(n, np.float32), {}, r"shape \(5,\) of type float32 for 5 images; expected a matrix"),
        (lambda n: np.zeros((n - 1, 3)), {}, r"shape \(4, 3\).*expected a matrix of shape \(5, classes\)"),
        (lambda n: np.zeros((n, 1)), {}, "at least 2 classes"),
        (lambda n: np.zeros((n, 3)), {"classes": 4}, r"shape \(5, 3\).*expected a matrix of shape \(5, 4\)"),
        (lambda n: np.zeros((n, 3), int), {}, 'int64 for 5 images; expected floating-point.*need output="labels"'),
        (lambda n: np.where(np.eye(5, 3) > 0, np.nan, 0.0), {}, "NaN or infinite numbers for 3 of 5 images"),
        (lambda n: None, {}, "of type object"),
        (lambda n: np.full((n, 3), 0.5), {"output": "probabilities"}, r"sum to 1\.5"),
        (lambda n: np.full((n, 3), np.inf), {"output": "probabilities"}, "NaN or infinite"),
        (lambda n: np.zeros((n, 3)), {"output": "labels", "classes": 3}, r"whole numbers of shape \(5,\)"),
        (lambda n: np.zeros(n), {"output": "labels", "classes": 3}, "float64.*expected whole numbers"),
        (lambda n: np.arange(n), {"output": "labels", "classes": 3}, r"labels from 0 to 4; expected 0\.\.2"),
        (lambda n: np.arange(n) - 1, {"output": "labels", "classes": 9}, r"labels from -1 to 3; expected 0\.\.8"),
    ],
)
def test_answers_that_cannot_be_used_are_refused(
    answers: Callable[[int], Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        from_numpy(lambda images: answers(len(images)), **settings)(X)


def test_what_the_function_raises_is_passed_on_with_its_circumstances() -> None:
    def service(images: np.ndarray) -> np.ndarray:
        raise TimeoutError("no answer within 30 s")

    with pytest.raises(ModelError, match=r"raised TimeoutError: no answer within 30 s\..*\(5, 2, 3, 3\)") as caught:
        from_numpy(service)(X)
    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output": "logit"}, "no output 'logit'. Did you mean 'logits'"),
        ({"output": "labels"}, "needs the number of classes"),
        ({"classes": 1}, "classes=1; expected 2"),
        ({"batch_size": 0}, "batch_size=0; expected 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_numpy(scores, **settings)


def test_a_black_box_can_be_attacked() -> None:
    model = from_numpy(scores)
    y = predictions(model(X))
    result = spsa(model, X, y, threat=Linf("0.3"), steps=20, step_size=0.05, samples=8)
    assert result.broken.any()
    assert (result.backwards == 0).all()
