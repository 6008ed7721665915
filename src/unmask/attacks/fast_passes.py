"""The same module, run faster under attack: what an attack finds is judged on the module itself."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unmask.contract import Model


class FastPasses(nn.Module):
    """A module on a CPU, run with its convolutions' weights in channels-last layout, in which processors are faster.

    Weights are taken as they are at the time, without gradients. A module that cannot be run so (one that views
    activations as rows, say) is run as it is.
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
        """Return the module's answer to images x (B, ...)."""
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
