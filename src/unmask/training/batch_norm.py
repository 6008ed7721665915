"""Batch norm where two kinds of images meet: statistics of their own, statistics left alone, statistics made anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Policy = Literal["joint", "split", "auxiliary_clean", "auxiliary_adversarial"]


class TwoNorms(nn.Module):
    """A batch norm and a second one of the same form, with statistics and weights of its own, that takes its turns."""

    def __init__(self, main: _BatchNorm) -> None:
        super().__init__()
        self.main = main
        self.auxiliary = type(main)(main.num_features, main.eps, main.momentum, main.affine, main.track_running_stats)
        self.auxiliary.load_state_dict(main.state_dict())
        self.auxiliary.to(next(iter(main.state_dict().values()), torch.empty(0)).device)
        self.auxiliary_turn = False

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised by whose turn it is."""
        return cast(Tensor, (self.auxiliary if self.auxiliary_turn else self.main)(x))


def add_auxiliary(model: nn.Module) -> nn.Module:
    """Give every batch norm of the model an auxiliary one, in place (Xie et al. 2020, AdvProp); returns the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(module, TwoNorms):
                setattr(module, name, TwoNorms(child))
    return model


def drop_auxiliary(model: nn.Module) -> nn.Module:
    """Take the auxiliary norms out again, in place; returns the model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, TwoNorms):
                setattr(module, name, child.main)
    return model


@contextmanager
def auxiliary_turn(model: nn.Module, turn: bool = True) -> Iterator[None]:
    """Let the auxiliary norms, where there are any, do the work for a while."""
    norms = [module for module in model.modules() if isinstance(module, TwoNorms)] if turn else []
    for norm in norms:
        norm.auxiliary_turn = True
    try:
        yield
    finally:
        for norm in norms:
            norm.auxiliary_turn = False


@contextmanager
def untouched_statistics(model: nn.Module) -> Iterator[None]:
    """Give all buffers of the model, running statistics among them, back as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            if name in before:
                buffer.copy_(before[name])


@torch.no_grad()
def refresh(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make running statistics anew, as means over batches of images (B, C, H, W): averaged weights have had none."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta, training = [norm.momentum for norm in norms], model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for x in batches:
        model(x)
    model.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
