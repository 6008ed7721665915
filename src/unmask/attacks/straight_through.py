"""Gradients past the operations that have none: the model's answers stay, its backward pass looks straight through.

Rounding, thresholds, casts to whole numbers and detached branches stop gradients and with them gradient attacks, but
protect nothing: Athalye et al. 2018 ("Obfuscated gradients", Section 4.1, BPDA) put a differentiable stand-in into the
backward pass by hand. Here the operations are met while the model runs, so nobody needs to know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from unmask.attacks.problem import input_gradient
from unmask.contract import Model
from unmask.losses import margin

STEPWISE = frozenset({"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside"})
GREATER = frozenset({"ge", "gt", "greater", "greater_equal"})
LESS = frozenset({"le", "lt", "less", "less_equal"})
RESHAPED = frozenset({"__getitem__", "unsqueeze", "squeeze", "view", "reshape", "flatten", "permute", "expand"})
ARITHMETIC = frozenset(
    {"mul", "__mul__", "__rmul__", "add", "__radd__", "sub", "__rsub__", "rsub", "div", "true_divide"}
)


class StraightThrough:
    """A model with its own answers, whose gradients pass stepwise operations as if each were its argument.

    `met` names the operations that the passes so far have met: round, floor, ceil, trunc, sign, heaviside,
    comparisons, casts to whole numbers, detach, no_grad. What a custom autograd function hides stays hidden.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.met: set[str] = set()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the model's logits for x (B, ...)."""
        with _LookThrough(self.met):
            return self.model(x)


class Reach(NamedTuple):
    """Whether the model's own gradients reach some image, and the operations past which others are to be had."""

    own: bool = True
    blocked: tuple[str, ...] = ()


def reach(model: Model, x: Tensor, y: Tensor) -> Reach:
    """Compare the model's input gradients of the margin at x (B, ...), y (B,) with those that look straight through.

    Costs at most two forwards and two backwards per image. A model that cannot be run with gradients at all is left to
    the attacks, which say so.
    """
    through = StraightThrough(model)
    try:
        own = _gradient(model, x, y)
    except Exception:
        return Reach()
    try:
        beyond = _gradient(through, x, y)
    except Exception:  # the model needs its true comparisons or casts
        return Reach(bool(own.any()))
    differs = through.met and bool(torch.isfinite(beyond).all()) and not torch.allclose(own, beyond)
    return Reach(bool(own.any()), tuple(sorted(through.met)) if differs else ())


@torch.enable_grad()
def _gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return input_gradient(margin(model(leaf), y), leaf)


class _LookThrough(TorchFunctionMode):
    """Adds to each stepwise result a term of value zero whose gradient is that of the operation's argument.

    Truth values and whole numbers carry no gradient: theirs waits in `soft` until they are made floats, or computed
    with.
    """

    def __init__(self, met: set[str]) -> None:
        super().__init__()
        self.met = met
        self.soft: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "_set_grad_enabled" and torch.is_grad_enabled() and not args[0]:
            self.met.add("no_grad")
            return None
        if not torch.is_grad_enabled() or not args:
            return func(*args, **kwargs)
        if name == "detach" and _differentiable(args[0]):
            self.met.add(name)
            return args[0]
        if name in ARITHMETIC:
            args = tuple(self._as_float(value) for value in args)
        out = func(*args, **kwargs)
        return self._with_gradient(name, args, out) if isinstance(out, Tensor) else out

    def _with_gradient(self, name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        first = args[0]
        if name in STEPWISE and _differentiable(first):
            self.met.add(name)
            return out + _zero(first)
        if name in GREATER | LESS and any(_differentiable(value) for value in args):
            self.met.add(name)
            self.soft[out] = args[0] - args[1] if name in GREATER else args[1] - args[0]
        elif name == "where" and len(args) == 3 and self._waits(first):
            return out + _zero(self.soft[first] * (torch.as_tensor(args[1]) - args[2]).detach())
        elif self._waits(first) and out.is_floating_point():
            return out + _zero(self.soft[first]).to(out)
        elif self._waits(first) and name in RESHAPED:
            self.soft[out] = getattr(self.soft[first], name)(*args[1:])
        elif _differentiable(first) and not out.is_floating_point() and name in {"to", "type", "int", "long", "byte"}:
            self.met.add("cast")
            self.soft[out] = first
        return out

    def _waits(self, value: object) -> bool:
        return isinstance(value, Tensor) and value in self.soft

    def _as_float(self, value: Any) -> Any:
        if not self._waits(value):
            return value
        soft: Tensor = self.soft[value]
        return value.to(soft.dtype) + _zero(soft)


def _differentiable(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad


def _zero(soft: Tensor) -> Tensor:
    return soft - soft.detach()
