"""The same module, run faster under attack: what an attack finds is judged on the module itself."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unmask.contract import Model
from unmask.environment import keep_freed_memory


class FastPasses(nn.Module):
    """A module run with its convolutions' weights in channels-last layout, in which CPUs are faster.

    Weights are taken as they are at the time, without gradients. A module that cannot be run so (one that views
    activations as rows, say) is run as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._weights: dict[str, Tensor] | None = {
            name: self._fast(weight.detach()) for name, weight in module.named_parameters()
        }

    def _fast(self, weight: Tensor) -> Tensor:
        return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's answer to images x (B, ...)."""
        if self._weights is not None:
            try:
                return cast(Tensor, functional_call(self.module, self._weights, (x,)))
            except Exception:
                self._weights = None
        return cast(Tensor, self.module(x))


class HalfPasses(FastPasses):
    """A module whose passes that will be differentiated run in bf16; those that only answer are `exact`, in fp32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.exact = FastPasses(module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's answer to images x (B, ...), in their type."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return cast(Tensor, self.exact(x))
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().forward(x).to(x.dtype)

    def _fast(self, weight: Tensor) -> Tensor:
        return super()._fast(weight.bfloat16() if weight.dim() > 1 else weight)


def half_precision(model: Model) -> Model:
    """Return a form of the model on which attacks take their gradients in bf16 and judge every break in fp32.

    Pays on GPUs and on CPUs with bf16 units (AMX), where passes take a third of the time. A model that is no module
    is returned as it is. Attacks outside of the ascent engine (FAB, FMN) go on in fp32.

        result = unmask.attacks.pgd(half_precision(model), x, y, threat=threat)
    """
    return HalfPasses(model) if isinstance(model, nn.Module) and not isinstance(model, FastPasses) else model


def full_precision(model: Model) -> Model:
    """Return the model without what `half_precision` did."""
    return model.exact if isinstance(model, HalfPasses) else model


def fast_passes(model: Model, x: Tensor) -> Model:
    """Return the model in the form in which attacks on x (B, ...) run it fastest, which may be the model itself."""
    if not isinstance(model, nn.Module) or isinstance(model, FastPasses | torch.jit.ScriptModule):
        return model
    if x.device.type != "cpu":
        return model
    keep_freed_memory()
    return FastPasses(model) if any(weight.dim() == 4 for weight in model.parameters()) else model
