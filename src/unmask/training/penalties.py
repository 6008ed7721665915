"""The terms that training objectives are made of: the papers' penalties, each a plain function of one batch.

A term is a named, weighted function `Batch -> scalar`. B batch, K classes. A new defence is one function here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from unmask.errors import RecipeError, unknown
from unmask.losses import divergence
from unmask.streams import Streams
from unmask.threat import ThreatModel

Half = Literal["clean", "adversarial"]
Need = Literal["clean", "adversarial", "features", "model"]
Distance = Literal["l2", "l1", "huber"]
Reduction = Literal["mean", "sum"]
Convention = Literal["all_classes", "wrong_classes"]


@dataclass(frozen=True)
class Blend:
    """What mixup mixed in: the partners' labels (B,), and the share in [0, 1] that the image itself has kept."""

    partner: Tensor
    share: float


@dataclass(frozen=True)
class Batch:
    """One training batch: images x and x_adv (B, C, H, W), labels y (B,), logits and logits_adv (B, K).

    `features` and `features_adv` (B, D) are what the last linear layer is given. `blend` says what mixup mixed into x.
    `model` and random `streams` are for terms that look at further points. What no term of the objective needs is None.
    """

    x: Tensor
    y: Tensor
    logits: Tensor | None = None
    x_adv: Tensor | None = None
    logits_adv: Tensor | None = None
    features: Tensor | None = None
    features_adv: Tensor | None = None
    blend: Blend | None = None
    model: nn.Module | None = None
    streams: Streams | None = None

    def half(self, half: Half) -> Tensor:
        """Return the logits of one half; raises RecipeError if the objective did not compute it."""
        logits = self.logits if half == "clean" else self.logits_adv
        if logits is None:
            raise RecipeError(f"A term needs the {half} logits, but the objective does not compute them.")
        return logits


@dataclass(frozen=True)
class Term:
    """One weighted part of an objective: its name in the logs, what it reads, and what its settings were.

    `units` says of how many things the term is the mean in a batch of B images (B, or B/2 pairs): with their numbers as
    weights the mean over parts of a batch is the value on the whole. None where no such sum gives the whole.
    """

    name: str
    weight: float
    function: Callable[[Batch], Tensor]
    needs: frozenset[Need]
    settings: Mapping[str, object] = field(default_factory=dict)
    units: Callable[[int], int] | None = int

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
    al. Images that mixup mixed count for both labels by their shares (Zhang et al. 2018). Raises RecipeError for an a
    that makes a wrong class likelier than the true one.
    """
    if not 0 <= label_smoothing <= 1:
        raise RecipeError(f"The label smoothing is {label_smoothing}; expected a number between 0 and 1.")
    _check("convention of label smoothing", convention, get_args(Convention))
    _check("reduction", reduction, get_args(Reduction))

    def function(batch: Batch) -> Tensor:
        logits = batch.half(on)
        smoothing = _smoothing(label_smoothing, convention, logits.shape[1])

        def against(labels: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)

        if batch.blend is None:
            return against(batch.y)
        return batch.blend.share * against(batch.y) + (1 - batch.blend.share) * against(batch.blend.partner)

    settings = {"label_smoothing": label_smoothing, "convention": convention, "reduction": reduction}
    units = int if reduction == "mean" else _one
    return Term(_name("cross_entropy", on), weight, function, frozenset({on}), settings, units)


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

    return Term(_name("frobenius_logit_squeezing", on), weight, function, frozenset({on}), units=None)


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
    return Term("clean_logit_pairing", weight, function, frozenset({"clean"}), settings, lambda count: count // 2)


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


def divergence_pairing(weight: float, *, constant_clean: bool = False) -> Term:
    """Return the mean KL(p(x) || p(x_adv)): TRADES' second term (Zhang et al. 2019, Eq. 3, weight 1/lambda).

    With `constant_clean` no gradient flows through p(x): the local distributional smoothness of virtual adversarial
    training (Miyato et al. 2018, Eq. 5), whose adversary is `VirtualAdversary`.
    """

    def function(batch: Batch) -> Tensor:
        clean = batch.half("clean")
        return divergence(clean.detach() if constant_clean else clean, batch.half("adversarial")).mean()

    settings = {"constant_clean": constant_clean}
    return Term("divergence_pairing", weight, function, frozenset({"clean", "adversarial"}), settings)


def boosted_cross_entropy(weight: float = 1.0) -> Term:
    """Return the mean of -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)) (MART; Wang et al. 2020, Eq. 8)."""

    def function(batch: Batch) -> Tensor:
        logits = batch.half("adversarial")
        own = F.one_hot(batch.y, logits.shape[1]).bool()
        rival = logits.masked_fill(own, -torch.inf).argmax(1, keepdim=True)
        others = logits.scatter(1, rival, -torch.inf).logsumexp(1) - logits.logsumexp(1)
        return (F.cross_entropy(logits, batch.y, reduction="none") - others).mean()

    return Term("boosted_cross_entropy", weight, function, frozenset({"adversarial"}))


def misclassified_divergence(weight: float) -> Term:
    """Return the mean of KL(p(x) || p(x_adv)) (1 - p_y(x)): MART's second term (Wang et al. 2020, Eq. 11)."""

    def function(batch: Batch) -> Tensor:
        clean = batch.half("clean")
        doubt = 1 - clean.softmax(1).gather(1, batch.y.unsqueeze(1)).squeeze(1)
        return (divergence(clean, batch.half("adversarial")) * doubt).mean()

    return Term("misclassified_divergence", weight, function, frozenset({"clean", "adversarial"}))


def feature_pairing(weight: float, *, distance: Distance = "l2") -> Term:
    """Return the mean distance of what the last linear layer is given for each image and its adversarial image.

    Proposed by Kannan et al. 2018 (Section 7) for future work. Distances as in `adversarial_logit_pairing`.
    """
    _check("distance", distance, get_args(Distance))

    def function(batch: Batch) -> Tensor:
        if batch.features is None or batch.features_adv is None:
            raise RecipeError("feature_pairing needs the features of both halves, but the objective has not kept them.")
        return _pair(batch.features, batch.features_adv, distance, "mean")

    needs: frozenset[Need] = frozenset({"clean", "adversarial", "features"})
    return Term("feature_pairing", weight, function, needs, {"distance": distance})


def gradient_alignment(weight: float, threat: ThreatModel) -> Term:
    """Return the mean of 1 - cos(g(x), g(x + u)), g the cross-entropy's input gradient, u uniform in the ball.

    GradAlign (Andriushchenko & Flammarion 2020, Eq. 5): keeps single-step adversarial training from catastrophic
    overfitting. Costs two further passes, differentiated twice; they leave batch-norm statistics alone.
    """

    def function(batch: Batch) -> Tensor:
        if batch.model is None or batch.streams is None:
            raise RecipeError("gradient_alignment needs the model and random streams, but the objective gives none.")
        near = threat.uniform(batch.x, batch.streams.child("gradient_alignment"))
        here, there = (_slope(batch.model, x, batch.y).flatten(1) for x in (batch.x, near))
        return (1 - F.cosine_similarity(here, there, dim=1)).mean()

    settings = {"threat": str(threat)}
    return Term("gradient_alignment", weight, function, frozenset({"clean", "model"}), settings)


def _slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = functional_call(model, buffers, (leaf,))
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), leaf, create_graph=True)
    return slope


def _one(count: int) -> int:
    return 1


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
