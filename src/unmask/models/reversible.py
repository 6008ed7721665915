"""Reversible residual stages: activations are computed again in the backward pass, from the stage's output alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

Pair: TypeAlias = tuple[Tensor, Tensor]
Gradients: TypeAlias = list[Tensor | None]

# In 16 bits `x + f - f` is too far from `x` to stand in for it.
INVERTIBLE = (torch.float32, torch.float64)


class ReversibleUnit(nn.Module):
    """Map halves (x1, x2) to y1 = s(x1) + f(x2) and y2 = s(x2) + g(y1) (Gomez et al. 2017, eq. 6).

    With the identity as shortcut s the input is had back from the output: x2 = y2 - g(y1), x1 = y1 - f(x2).
    """

    def __init__(self, f: nn.Module, g: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.f = f
        self.g = g
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x1: Tensor, x2: Tensor) -> Pair:
        """Map halves `(B, C/2, H, W)` to halves `(B, C'/2, H', W')`."""
        y1 = self.shortcut(x1) + self.f(x2)
        return y1, self.shortcut(x2) + self.g(y1)


class ReversibleStage(nn.Module):
    """Map features `(B, C, H, W)` to `(B, C', H', W')` by units on the two halves of the channels.

    The first unit may change the shape; all later ones have the identity as shortcut. Between the passes the stage
    keeps its input and its output, however many units it has, and computes the rest again: with the parameters, the
    buffers, the modes (every attribute of a layer that is True or False) and the autocast of the forward pass, and
    without moving running statistics a second time. In 16 bits everything is kept, since subtraction would not give
    the input back; under autocast the halves therefore stay in 32 bits. Random layers are not drawn again alike, so
    the units must hold none.

    `recompute=False` keeps all activations, for the same result up to rounding; second derivatives need it (autograd
    raises RuntimeError without it).
    """

    def __init__(self, units: Sequence[ReversibleUnit], *, recompute: bool = True) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to `(B, C', H', W')`; C is even."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()
        if not (self.recompute and torch.is_grad_enabled() and x.dtype in INVERTIBLE):
            return self.through(x)
        weights = [weight for part in self.parts() for weight in part.parameters()]
        return cast(Tensor, _Recomputed.apply(self, x, *weights))

    def through(self, x: Tensor) -> Tensor:
        """Return what `forward` does, `(B, C', H', W')`, as autograd keeps it: with all activations."""
        halves = _halves(x)
        for unit in self.units:
            halves = unit(*halves)
        return torch.cat(halves, dim=1)

    def parts(self) -> Iterator[nn.Module]:
        """Yield what is run again as one: the first unit whole, then f and g of every other."""
        first, *rest = self.units
        yield first
        for unit in cast(list[ReversibleUnit], rest):
            yield unit.f
            yield unit.g


@dataclass(frozen=True)
class _Recording:
    """A module as it was when it ran, apart from its parameters."""

    module: nn.Module
    names: tuple[str, ...]
    buffers: dict[str, Tensor]
    modes: tuple[dict[str, bool], ...]

    @staticmethod
    def of(module: nn.Module) -> _Recording:
        return _Recording(
            module,
            tuple(name for name, _ in module.named_parameters()),
            # Copies: a second run moves these, and another forward pass in between moves the module's own.
            {name: buffer.clone() for name, buffer in module.named_buffers()},
            _modes(module),
        )

    def pull(
        self, inputs: Sequence[Tensor], weights: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Gradients]:
        """Run again on the inputs; return the outputs and the gradients' pull-backs to inputs and weights.

        Weights that require no gradient, or took no part, get None.
        """
        inputs = [x.detach().requires_grad_() for x in inputs]
        with torch.enable_grad(), _in_modes(self.module, self.modes):
            answer = functional_call(
                self.module, dict(zip(self.names, weights, strict=True)) | self.buffers, tuple(inputs)
            )
        outputs = [answer] if isinstance(answer, Tensor) else list(answer)
        trained = [weight for weight in weights if weight.requires_grad]
        given = [gradient.to(output.dtype) for gradient, output in zip(gradients, outputs, strict=True)]
        pulled = iter(torch.autograd.grad(outputs, [*inputs, *trained], given, allow_unused=True))
        to_inputs = [torch.zeros_like(x) if (found := next(pulled)) is None else found for x in inputs]
        to_weights = [next(pulled) if weight.requires_grad else None for weight in weights]
        return [output.detach() for output in outputs], to_inputs, to_weights


class _Recomputed(torch.autograd.Function):
    """A stage that keeps its input and output alone; weights are arguments so that autograd asks for their gradients.

    They are the ones the stage holds at the time, which `functional_call` may have put there.
    """

    @staticmethod
    def forward(ctx: Any, stage: ReversibleStage, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.recordings = [_Recording.of(part) for part in stage.parts()]
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        y = stage.through(x)
        ctx.save_for_backward(x, y, *weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        leaves = [weight.detach().requires_grad_(needed) for weight, needed in zip(weights, wanted, strict=True)]
        with torch.autocast(*ctx.autocast):
            to_x, to_weights = _back_through(ctx.recordings, x, y, leaves, gradient)
        return None, to_x, *to_weights


def _back_through(
    recordings: Sequence[_Recording], x: Tensor, y: Tensor, weights: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, Gradients]:
    """Return a stage's gradients in its input and weights, walking from its output y to its input x."""
    first, *rest = recordings
    shares = _shares(weights, [len(recording.names) for recording in recordings])
    (y1, y2), (dy1, dy2) = _halves(y), _halves(gradient)
    pulled: list[Gradients] = []
    for index in range(len(rest) - 2, -1, -2):
        f, g = rest[index : index + 2]
        of_f, of_g = shares[index + 1 : index + 3]
        (moved,), (through_g,), to_g = g.pull([y1], of_g, [dy2])
        x2, dy1 = y2 - moved, dy1 + through_g
        (moved,), (through_f,), to_f = f.pull([x2], of_f, [dy1])
        y1, y2, dy2 = y1 - moved, x2, dy2 + through_f
        pulled += [to_g, to_f]
    _, to_x, to_first = first.pull(_halves(x), shares[0], [dy1, dy2])
    return torch.cat(to_x, dim=1), [value for part in [to_first, *reversed(pulled)] for value in part]


def _shares(weights: Sequence[Tensor], counts: Sequence[int]) -> list[Sequence[Tensor]]:
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [weights[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _halves(x: Tensor) -> Pair:
    first, second = x.chunk(2, dim=1)
    return first, second


def _modes(module: nn.Module) -> tuple[dict[str, bool], ...]:
    return tuple(
        {name: value for name, value in vars(part).items() if isinstance(value, bool)} for part in module.modules()
    )


@contextmanager
def _in_modes(module: nn.Module, modes: Sequence[dict[str, bool]]) -> Iterator[None]:
    before = _modes(module)
    _set_modes(module, modes)
    try:
        yield
    finally:
        _set_modes(module, before)


def _set_modes(module: nn.Module, modes: Sequence[dict[str, bool]]) -> None:
    for part, mode in zip(module.modules(), modes, strict=True):
        vars(part).update(mode)
