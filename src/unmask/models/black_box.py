"""Black boxes: functions of NumPy arrays, such as remote services, as models without gradients."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.errors import ModelError, unknown
from unmask.models.adapters import from_probabilities
from unmask.models.callables import Classifier

Array: TypeAlias = npt.NDArray[Any]
Output = Literal["logits", "probabilities", "labels"]


def from_numpy(
    function: Callable[[Array], Any],
    *,
    output: Output = "logits",
    classes: int | None = None,
    batch_size: int | None = None,
) -> Classifier:
    """Wrap a function of NumPy arrays, such as a remote service or an ONNX session, into a model without gradients.

    `function` gets images as a C-contiguous float32 array `(N, C, H, W)` in [0, 1], a copy of its own, with N at most
    `batch_size`. By `output` it returns "logits" `(N, K)`, "probabilities" `(N, K)`, which become `log p`, or "labels"
    `(N,)`, whole numbers below `classes`, which become +1 for the class and -1 for the others: such logits say who wins
    and nothing else, so only attacks on decisions get anywhere. `classes`, where it is given, is checked against K.

    Raises ModelError for settings that make no sense. The model raises it when the function raises (with its error as
    the cause) and when an answer has another shape or type, is not finite, no distribution or no known class.

        session = onnxruntime.InferenceSession("net.onnx")
        model = unmask.models.from_numpy(lambda images: session.run(None, {"images": images})[0], batch_size=64)
    """
    if output not in ("logits", "probabilities", "labels"):
        raise ModelError(unknown("output", output, ("logits", "probabilities", "labels")))
    if batch_size is not None and batch_size < 1:
        raise ModelError(f"from_numpy got batch_size={batch_size}; expected 1 or more, or None for whole batches.")
    if classes is not None and classes < 2:
        raise ModelError(f"from_numpy got classes={classes}; expected 2 or more.")
    if output == "labels":
        if classes is None:
            raise ModelError('from_numpy needs the number of classes to read labels: output="labels", classes=10.')
        return _batched(
            lambda images: _signs(_labels(_answers(function, images), len(images), classes)), classes, batch_size
        )
    scores = _batched(
        lambda images: _scores(_answers(function, images), len(images), classes), classes or 2, batch_size
    )
    return from_probabilities(scores) if output == "probabilities" else scores


def _batched(answer: Callable[[Array], Tensor], columns: int, batch_size: int | None) -> Classifier:
    def model(x: Tensor) -> Tensor:
        if not len(x):  # not worth a question, and more than many functions can bear
            return x.new_empty((0, columns), dtype=torch.float32)
        images = x.detach().cpu().float()
        # A copy: what the function does to its input must not reach the images.
        parts = [np.array(part.numpy(), order="C") for part in images.split(batch_size or len(images))]
        return torch.cat([answer(part) for part in parts]).to(x.device)

    return model


def _answers(function: Callable[[Array], Any], images: Array) -> Array:
    shape = images.shape
    try:
        return np.asarray(function(images))
    except Exception as error:
        raise ModelError(
            f"The function behind from_numpy raised {type(error).__name__}: {error}. It was given a float32 array of "
            f"shape {shape}."
        ) from error


def _scores(answers: Array, count: int, classes: int | None) -> Tensor:
    expected = f"({count}, {'classes' if classes is None else classes})"
    if answers.ndim != 2 or len(answers) != count or answers.shape[1] < 2 or classes not in (None, answers.shape[1]):
        raise ModelError(_refusal(answers, count, f"a matrix of shape {expected} with at least 2 classes"))
    if answers.dtype.kind != "f":
        raise ModelError(_refusal(answers, count, 'floating-point numbers (class numbers need output="labels")'))
    if not np.isfinite(answers).all():
        rows = int((~np.isfinite(answers)).any(axis=1).sum())
        raise ModelError(
            f"The function behind from_numpy returned NaN or infinite numbers for {rows} of {count} images."
        )
    return torch.from_numpy(answers.astype(np.float64 if answers.dtype.itemsize > 4 else np.float32))


def _labels(answers: Array, count: int, classes: int) -> Tensor:
    if answers.shape != (count,) or answers.dtype.kind not in "iu":
        raise ModelError(_refusal(answers, count, f"whole numbers of shape ({count},), one label per image"))
    if count and not (answers.min() >= 0 and answers.max() < classes):
        raise ModelError(
            f"The function behind from_numpy returned labels from {answers.min()} to {answers.max()}; expected "
            f"0..{classes - 1}, as classes={classes}."
        )
    return F.one_hot(torch.from_numpy(answers.astype(np.int64)), classes)


def _signs(one_hot: Tensor) -> Tensor:
    # Not 0 and 1: those are probabilities, which audits refuse.
    return (2 * one_hot - 1).float()


def _refusal(answers: Array, count: int, expected: str) -> str:
    return (
        f"The function behind from_numpy returned shape {answers.shape} of type {answers.dtype} for {count} images; "
        f"expected {expected}."
    )
