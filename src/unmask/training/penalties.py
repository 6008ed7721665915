"""The terms that training objectives are made of: the seeds' penalties, each a plain function of one batch.

A term is a named, weighted function `Batch -> scalar`. B batch, K classes. A new defence is one function here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import RecipeError, unknown

Half = Literal["clean", "adversarial"]
Distance = Literal["l2", "l1", "huber"]
Reduction = Literal["mean", "sum"]
Convention = Literal["all_classes", "wrong_classes"]


@dataclass(frozen=True)
class Batch:
    """One training batch: images x and x_adv (B, C, H, W), labels y (B,), logits and logits_adv (B, K).

    The halves that no term of the objective needs are None.
    """

    x: Tensor
    y: Tensor
    logits: Tensor | None = None
    x_adv: Tensor | None = None
    logits_adv: Tensor | None = None

    def half(self, half: Half) -> Tensor:
        """Return the logits of one half; raises RecipeError if the objective did not compute it."""
        logits = self.logits if half == "clean" else self.logits_adv
        if logits is None:
            raise RecipeError(f"A term needs the {half} logits, but the objective does not compute them.")
        return logits


@dataclass(frozen=True)
class Term:
    """One weighted part of an objective: its name in the logs, the halves it reads, and what its settings were."""

    name: str
    weight: float
    function: Callable[[Batch], Tensor]
    needs: frozenset[Half]
    settings: Mapping[str, object] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        """Return the term as plain values, for records and fingerprints."""
        return {"name": self.name, "weight": self.weight, **self.settings}


def cross_entropy(
    weight: float = 1.0,
    *,
    on: Half = "clean",
    label_smoothing: float = 0.0,
    convention: Convention = "all_classes",
    reduction: Reduction = "mean",
) -> Term:
    """Return cross-entropy on one half, with smoothed labels if asked.

    `label_smoothing` a: with "all_classes" y - a (y - 1/K) (Shafahi et al., Section 3); with "wrong_classes" 1 - a for
    the true class and a / (K - 1) for each other (Kannan et al., Section 6). `reduction` "sum" is Eq. 5 of Shafahi et
    al. Raises RecipeError for an a that makes a wrong class likelier than the true one.
    """
    if not 0 <= label_smoothing <= 1:
        raise RecipeError(f"The label smoothing is {label_smoothing}; expected a number between 0 and 1.")
    _check("convention of label smoothing", convention, get_args(Convention))
    _check("reduction", reduction, get_args(Reduction))

    def function(batch: Batch) -> Tensor:
        logits = batch.half(on)
        smoothing = _smoothing(label_smoothing, convention, logits.shape[1])
        return F.cross_entropy(logits, batch.y, label_smoothing=smoothing, reduction=reduction)

    settings = {"label_smoothing": label_smoothing, "convention": convention, "reduction": reduction}
    return Term(_name("cross_entropy", on), weight, function, frozenset({on}), settings)


def logit_squeezing(weight: float, *, on: Half = "clean") -> Term:
    """Return the mean over examples of the unsquared norm ||z_i||_2 (LSQ of Mosbach et al.)."""

    def function(batch: Batch) -> Tensor:
        return _norm(batch.half(on), dim=1).mean()

    return Term(_name("logit_squeezing", on), weight, function, frozenset({on}))


def frobenius_logit_squeezing(weight: float, *, on: Half = "clean") -> Term:
    """Return the unsquared Frobenius norm of the batch's logits (Shafahi et al., Eq. 5, with summed cross-entropy).

    With summed cross-entropy all-zero logits are optimal once weight >= sqrt(B (1 - 1/K)).
    """

    def function(batch: Batch) -> Tensor:
        return _norm(batch.half(on).flatten(), dim=0)

    return Term(_name("frobenius_logit_squeezing", on), weight, function, frozenset({on}))


def clean_logit_pairing(weight: float, *, distance: Distance = "l2", over_classes: Reduction = "mean") -> Term:
    """Return the distance of the logits of example i and i + B/2, two random clean images (Kannan et al., 4.2.2).

    Distances as in `adversarial_logit_pairing`. An odd last example is left out; a single example gives 0.
    """
    _check_pairing(distance, over_classes)

    def function(batch: Batch) -> Tensor:
        logits = batch.half("clean")
        half = len(logits) // 2
        return _pair(logits[:half], logits[half : 2 * half], distance, over_classes)

    settings = {"distance": distance, "over_classes": over_classes}
    return Term("clean_logit_pairing", weight, function, frozenset({"clean"}), settings)


def adversarial_logit_pairing(weight: float, *, distance: Distance = "l2", over_classes: Reduction = "mean") -> Term:
    """Return the distance of the logits of each image and its adversarial image (ALP; Kannan et al., 4.2.1).

    `distance`: "l2" squared difference, "l1" absolute, "huber" with delta 1. The mean over examples of the mean over
    classes (as in the public code) or of the sum over classes (as the paper writes): they differ by the factor K.
    Gradients flow through both sides.
    """
    _check_pairing(distance, over_classes)

    def function(batch: Batch) -> Tensor:
        return _pair(batch.half("clean"), batch.half("adversarial"), distance, over_classes)

    settings = {"distance": distance, "over_classes": over_classes}
    return Term("adversarial_logit_pairing", weight, function, frozenset({"clean", "adversarial"}), settings)


def _name(term: str, on: Half) -> str:
    _check("half of the batch", on, get_args(Half))
    return term if on == "clean" else f"adversarial_{term}"


def _check_pairing(distance: str, over_classes: str) -> None:
    _check("distance", distance, get_args(Distance))
    _check("reduction over classes", over_classes, get_args(Reduction))


def _check(kind: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise RecipeError(unknown(kind, word, known))


def _smoothing(amount: float, convention: Convention, classes: int) -> float:
    """Return the same smoothing in torch's convention, y - a (y - 1/K)."""
    if convention == "all_classes":
        return amount
    if amount > 1 - 1 / classes + 1e-9:
        raise RecipeError(
            f"The label smoothing {amount} over the wrong classes makes them likelier than the true one; expected at "
            f"most {1 - 1 / classes:.4g} for {classes} classes."
        )
    return min(amount * classes / (classes - 1), 1.0)


def _norm(logits: Tensor, dim: int) -> Tensor:
    """Return the Euclidean norm, whose gradient torch defines as 0 at the origin."""
    result: Tensor = torch.linalg.vector_norm(logits, dim=dim)
    return result


def _pair(left: Tensor, right: Tensor, distance: Distance, over_classes: Reduction) -> Tensor:
    if not len(left):
        return left.sum()
    losses: dict[Distance, Callable[..., Tensor]] = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
    per_class = losses[distance](left, right, reduction="none")
    return (per_class.mean(1) if over_classes == "mean" else per_class.sum(1)).mean()
