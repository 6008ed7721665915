"""The features that a network hands to its last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.contract import Model, logits_of
from unmask.errors import ModelError


@torch.no_grad()
def last_linear(model: Model, x: Tensor) -> nn.Linear | None:
    """Return the last `nn.Linear` that runs on images x (B, C, H, W), if it gives the classes; else None.

    It gives the classes where it maps one row of features per image to one output per class. None as well for a model
    that is no module. Costs a forward per image; one image is enough.
    """
    if not isinstance(model, nn.Module):
        return None
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(layer: nn.Linear, features: Tensor, output: Tensor) -> None:
        calls[:] = [(layer, features, output)]

    with _watched([module for module in model.modules() if isinstance(module, nn.Linear)], note):
        logits = logits_of(model, x)
    if not calls:
        return None
    layer, features, output = calls[0]
    return layer if features.dim() == 2 and output.shape == logits.shape else None


def features_and_logits(model: Model, x: Tensor, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the inputs (B, U) of `layer`, as `last_linear` found it, and the logits (B, K) of images x (B, C, H, W).

    Both can be differentiated by x where x requires gradients. Costs a forward per image. Raises ModelError where the
    layer does not run, or not on one row per image.
    """
    inputs: list[Tensor] = []

    def note(_: nn.Linear, features: Tensor, output: Tensor) -> None:
        inputs[:] = [features]

    with _watched([layer], note):
        logits = logits_of(model, x)
    if not inputs or inputs[0].dim() != 2 or len(inputs[0]) != len(x):
        got = f"got inputs of shape {tuple(inputs[0].shape)}" if inputs else "did not run"
        raise ModelError(
            f"The layer {layer} {got} on {len(x)} images; expected one row of features per image. Take the layer that "
            "last_linear(model, x) returns."
        )
    return inputs[0], logits


@contextmanager
def _watched(layers: Iterable[nn.Linear], note: Callable[[nn.Linear, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `note(layer, input, output)` whenever one of the layers runs; the hooks are gone at the end."""

    def hook(layer: nn.Linear, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor], output: Tensor) -> None:
        note(layer, args[0] if args else kwargs["input"], output)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
