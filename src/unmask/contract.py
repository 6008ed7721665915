"""What every model, image batch and label batch must be, checked where they enter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.errors import DataError, ModelError

Model = Callable[[Tensor], Tensor]


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return the model's logits for images x: (B, ...) -> float (B, K), checked.

    Raises ModelError if the output is not a finite floating-point matrix with one row per image and two classes or
    more.
    """
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"The model returned {got} for {len(x)} images of shape {tuple(x.shape[1:])}; expected logits of shape "
            f"({len(x)}, classes) with at least 2 classes. Wrap the model in a function that returns them."
        )
    if not logits.is_floating_point():
        raise ModelError(
            f"The model returned {logits.dtype} values; expected floating-point logits, not class numbers."
        )
    if not torch.isfinite(logits).all():
        rows = int((~torch.isfinite(logits)).any(1).sum())
        raise ModelError(
            f"The model returned NaN or infinite logits for {rows} of {len(x)} images. An attack cannot be judged on "
            "them: look for overflow, a division by zero, or log(0) in the model."
        )
    return logits


@contextmanager
def eval_mode(model: Model) -> Iterator[bool]:
    """Hold a module and all within it in eval mode, then give their modes back; yields whether any was in train mode.

    A callable that is no module is left to itself.
    """
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield any(modes.values())
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_not_probabilities(logits: Tensor) -> None:
    """Raise ModelError if every row of (B, K) looks like a softmax output: non-negative and summing to 1."""
    rows_sum_to_one = (logits.sum(1) - 1).abs() < 1e-3
    if len(logits) and bool((logits >= 0).all()) and bool(rows_sum_to_one.all()):
        raise ModelError(
            "The model returned probabilities (every row is non-negative and sums to 1); expected logits. Softmax "
            "hides gradients and makes attacks fail. Remove the final softmax, or wrap the model: "
            "unmask.models.from_probabilities(model)."
        )


def check_images(x: Tensor, low: float = 0.0, high: float = 1.0) -> None:
    """Raise DataError unless x is a batch of finite float images (B, ...) with pixels in [low, high]."""
    if not isinstance(x, Tensor) or x.dim() < 2:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"Images came as {got}; expected a tensor of shape (B, C, H, W). For one image use x[None].")
    if not x.is_floating_point():
        raise DataError(f"Images came as {x.dtype}; expected float32 in [{low:g}, {high:g}]. Use x.float() / 255.")
    if not x.numel():
        return
    least, most = x.min().item(), x.max().item()
    if not (torch.isfinite(torch.tensor([least, most])).all() and torch.isfinite(x).all()):
        raise DataError("Images contain NaN or infinite pixels; expected finite values.")
    if least < low or most > high:
        hint = " They look like 8-bit pixels: divide by 255." if most > 2 and least >= 0 else ""
        if max(low - least, most - high) < 1e-3:
            hint = f" That is a matter of rounding: use x.clamp({low:g}, {high:g})."
        hint = hint or " Move normalisation into the model (unmask.models.Normalize) and pass raw pixels."
        raise DataError(f"Pixels lie in [{least:.9g}, {most:.9g}]; expected [{low:g}, {high:g}].{hint}")


def check_labels(y: Tensor, count: int, classes: int | None = None, *, name: str = "Labels") -> None:
    """Raise DataError unless y is int64 (count,) with values in 0..classes-1 (if the number of classes is known).

    `name` is what the error calls them, e.g. "Targets".
    """
    if not isinstance(y, Tensor) or y.dim() != 1 or len(y) != count:
        got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise DataError(f"{name} came as {got}; expected one class number per image, shape ({count},).")
    if y.dtype != torch.int64:
        raise DataError(f"{name} came as {y.dtype}; expected int64 class numbers. Use y.long().")
    if len(y) and (int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes)):
        limit = f"0..{classes - 1}, as the model has {classes} classes" if classes is not None else "0 or more"
        raise DataError(f"{name} lie in {int(y.min())}..{int(y.max())}; expected {limit}.")


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device; raises ModelError if it is no device's name, or cannot be used on this machine."""
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The device '{device}' cannot be used ({reason}). Use 'cpu', or mend the device.") from error
    return target
