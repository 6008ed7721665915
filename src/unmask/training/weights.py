"""What happens to weights beside the optimizer: averages of them, and perturbations against which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unmask.errors import RecipeError
from unmask.training.batch_norm import untouched_statistics


@dataclass(frozen=True)
class WeightAdversary:
    """Adversarial weight perturbation (Wu et al. 2020, Eq. 8 to 10, one step): after `warmup` epochs, every kernel is
    moved by `gamma` times its norm along the gradient of the loss, and the step's own gradient is taken there.
    """

    gamma: float = 0.01
    warmup: int = 0

    def __post_init__(self) -> None:
        if not self.gamma > 0 or self.warmup < 0:
            raise RecipeError(
                f"The weight adversary has gamma {self.gamma} and warmup {self.warmup}; expected gamma above 0 and a "
                "number of epochs."
            )

    @contextmanager
    def perturbed(
        self, model: nn.Module, loss: Callable[[], Tensor], exchange: Callable[[list[Tensor]], None]
    ) -> Iterator[None]:
        """Hold the model's kernels at their perturbed values; `exchange` sums gradients over processes."""
        kernels = [weight for weight in model.parameters() if weight.requires_grad and weight.dim() > 1]
        with untouched_statistics(model):
            slopes = list(torch.autograd.grad(loss(), kernels))
        exchange(slopes)
        kept = [weight.detach().clone() for weight in kernels]
        with torch.no_grad():
            for weight, slope in zip(kernels, slopes, strict=True):
                length = slope.norm().clamp_min(torch.finfo(slope.dtype).tiny)
                weight.add_(slope, alpha=float(self.gamma * weight.norm() / length))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(kernels, kept, strict=True):
                    weight.copy_(before)


def averaged(model: nn.Module, decay: float | None) -> AveragedModel:
    """Return a running average of the model's weights and buffers: exponential, or equal (SWA) without a decay."""
    if decay is None:
        return AveragedModel(model, use_buffers=True)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
