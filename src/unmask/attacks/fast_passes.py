"""The same module, run faster under attack: what an attack finds is judged on the module itself."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unmask.contract import Model, logits_of

SLICE = 128


class FastPasses(nn.Module):
    """A module on a CPU, run with its convolutions' weights in channels-last layout, a large batch in slices.

    Processors convolve faster in this layout, and the activations of a slice stay in memory that is there already,
    while those of a large batch are handed back to the system and fetched anew at every pass. Weights are taken as they
    are at the time, without gradients. A module that cannot be run so (one that views activations as rows, say) is run
    as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._weights: dict[str, Tensor] | None = {
            name: weight.detach().contiguous(memory_format=torch.channels_last)
            if weight.dim() == 4
            else weight.detach()
            for name, weight in module.named_parameters()
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images x (B, ...). Raises ModelError for outputs that are no logits."""
        return torch.cat([logits_of(self._logits, part) for part in x.split(SLICE)])

    def _logits(self, x: Tensor) -> Tensor:
        if self._weights is not None:
            try:
                return cast(Tensor, functional_call(self.module, self._weights, (x,)))
            except Exception:
                self._weights = None
        return cast(Tensor, self.module(x))


def fast_passes(model: Model, x: Tensor) -> Model:
    """Return the model in the form in which attacks on x (B, ...) run it fastest, which may be the model itself."""
    if not isinstance(model, nn.Module) or isinstance(model, FastPasses | torch.jit.ScriptModule):
        return model
    convolves = any(weight.dim() == 4 for weight in model.parameters())
    return FastPasses(model) if convolves and x.device.type == "cpu" else model
