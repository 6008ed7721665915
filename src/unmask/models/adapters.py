"""Adapters: models of another output convention return logits, and models that hide their gradients show them."""

from typing import Any

import torch
from torch import Tensor, nn

from unmask.contract import logits_of
from unmask.errors import ModelError
from unmask.models.callables import Classifier

# Wide enough for probabilities computed in 16 bits.
SUM_TOLERANCE = 1e-2


class _LogProbabilities(nn.Module):
    """Module form, so that parameters, device and mode of a wrapped module stay within reach."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.model(x)
        _check_probabilities(probabilities)
        if probabilities.dtype != torch.float64:
            probabilities = probabilities.float()
        # log 0 would be infinite; the smallest normal number is below every probability that can be told from 0.
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def from_probabilities(model: Classifier) -> nn.Module:
    """Wrap a model that returns probabilities `(B, K)` into one that returns `log p`, which are valid logits.

    The softmax of `log p` is `p` again. Where `p` underflows to 0 the gradient is 0, so a model's own logits are better
    where they can be had. The wrapped model raises ModelError when an output is not a distribution over K >= 2 classes.
    """
    return _LogProbabilities(model)


class _Expectation(nn.Module):
    def __init__(self, model: Classifier, samples: int) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        total = logits_of(self.model, x)
        for _ in range(self.samples - 1):
            total = total + logits_of(self.model, x)
        return total / self.samples


def expectation(model: Classifier, samples: int) -> nn.Module:
    """Wrap a model that answers at random into one that returns its mean logits `(B, K)` over `samples` passes.

    What is attacked and judged is then the class of the largest *mean logit*: the randomised classifier whose answer
    is the vote of `samples` draws, not that of a single one. Its gradient is the mean gradient (expectation over
    transformation, Athalye et al. 2018). The mean is itself random, the less so the more samples, and an image near
    the boundary may still change sides between two looks. A pass through it costs `samples` passes of the model.
    Raises ModelError for fewer than one sample, and for outputs that are not logits.

        result = unmask.audit(unmask.models.expectation(noisy_net, 32), x, y, unmask.Linf("8/255"))
    """
    if samples < 1:
        raise ModelError(f"expectation got samples={samples}; expected 1 (the model itself) or more.")
    return _Expectation(model, samples)


class _ValueOfOneGradientOfOther(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class _StandInGradient(nn.Module):
    def __init__(self, forward: Classifier, backward: Classifier) -> None:
        super().__init__()
        self.value = forward
        self.stand_in = backward

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.value(x)
        stand_in = self.stand_in(x)
        if value.shape != stand_in.shape:
            raise ModelError(
                f"bpda: the forward function returned shape {tuple(value.shape)} for images of shape {tuple(x.shape)}, "
                f"and its stand-in {tuple(stand_in.shape)}; expected the same. Give a `backward` that maps images to "
                "what `forward` returns."
            )
        result: Tensor = _ValueOfOneGradientOfOther.apply(value.to(stand_in), stand_in)
        return result


def _identity(x: Tensor) -> Tensor:
    return x


def bpda(forward: Classifier, backward: Classifier = _identity) -> nn.Module:
    """Return a layer with the value of `forward` and the gradient of `backward`, a differentiable stand-in.

    Backward pass differentiable approximation (Athalye et al. 2018): rounding, JPEG or any other step that blocks
    gradients is kept as it is, and attacks look past it. `backward` should be close to `forward`; the identity suits
    steps that hardly change an image. Both map `(B, ...)` to the same shape, or ModelError is raised.

        def defended(x):
            return net(purify(x))

        purify = unmask.models.bpda(lambda x: (x * 7).round() / 7)

    With a whole model it joins a black box's answers to the gradients of a model at hand: `bpda(black_box, surrogate)`.
    """
    return _StandInGradient(forward, backward)


def _check_probabilities(p: Tensor) -> None:
    if p.ndim != 2 or p.shape[1] < 2 or not p.is_floating_point():
        raise ModelError(
            f"from_probabilities got an output of shape {tuple(p.shape)} and type {p.dtype}; expected floating-point "
            "probabilities (B, K) for K >= 2 classes."
        )
    if len(p) == 0:
        return
    sums = p.detach().float().sum(dim=1)
    low, high = sums.min().item(), sums.max().item()
    smallest = p.detach().min().item()
    if not (abs(low - 1) <= SUM_TOLERANCE and abs(high - 1) <= SUM_TOLERANCE and smallest >= 0):
        raise ModelError(
            f"The model returned rows that sum to {low:.4g} up to {high:.4g} with smallest entry {smallest:.4g}; "
            "expected probabilities, which are not negative and sum to 1. If the model returns logits, use it as it is "
            '(from_numpy: output="logits").'
        )
