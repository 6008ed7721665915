"""Adapters that turn models of another output convention into models that return logits."""

import torch
from torch import Tensor, nn

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
            f"from_probabilities got rows that sum to {low:.4g} up to {high:.4g} with smallest entry {smallest:.4g}; "
            "expected probabilities, which are not negative and sum to 1. If the model returns logits, use it as it is."
        )
