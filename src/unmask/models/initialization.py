"""Initialisation of a network from one given generator, without touching the global random state."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
from torch import nn

Layer: TypeAlias = nn.Conv2d | nn.Linear
Rule: TypeAlias = Callable[[Layer, torch.Generator], None]
Network = TypeVar("Network", bound=nn.Module)


def initialized(make: Callable[[], Network], rule: Rule, generator: torch.Generator) -> Network:
    """Return `make()` with every convolution and linear layer filled by `rule` in the order of definition.

    The constructor runs on the meta device, where torch's own initialisation draws nothing. Raises TypeError for a
    layer with parameters or buffers that has no rule, since its values would be left undefined.
    """
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rule(layer, generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise TypeError(f"There is no rule to initialise a {type(layer).__name__}.")
    return network


def he_normal(layer: Layer, generator: torch.Generator) -> None:
    """Draw weights from a normal of standard deviation sqrt(2 / fan_in); biases are zero (He et al. 2015, eq. 10)."""
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    _constant_bias(layer, 0.0)


def truncated_normal(layer: Layer, generator: torch.Generator) -> None:
    """Draw weights from a normal of standard deviation .1 cut at .2; biases are .1 (Madry et al. 2018, MNIST)."""
    nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2, generator=generator)
    _constant_bias(layer, 0.1)


def wide_normal(layer: Layer, generator: torch.Generator) -> None:
    """Draw kernels by He's rule on fan_out and linear weights uniformly with variance 1 / fan_in; biases are zero.

    The rule of the wide residual network of Madry et al. 2018 (CIFAR-10) and of Gomez et al. 2017.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", generator=generator)
    else:
        bound = (3 / layer.in_features) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    _constant_bias(layer, 0.0)


def _constant_bias(layer: Layer, value: float) -> None:
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)
