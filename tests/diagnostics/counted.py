"""What tests of studies share: models that count their passes, and a store of parts."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor


class Counted:
    """Logits (B, K) of a given function of flattened images, which counts the passes of its images."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.logits = logits
        self.forwards = self.backwards = self.largest = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        self.largest = max(self.largest, len(images))
        here = images * 1.0
        if here.requires_grad:
            here.register_hook(self.count)
        return self.logits(here.flatten(1))

    def count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def two_classes(margin: Callable[[Tensor], Tensor]) -> Counted:
    """Return logits (margin(x), 0)."""

    def logits(flat: Tensor) -> Tensor:
        first = margin(flat)
        return torch.stack([first, torch.zeros_like(first)], 1)

    return Counted(logits)


def shelf() -> tuple[dict[str, str], Callable[[str, Callable[[], object]], object]]:
    """Return a store of parts as JSON and the `keep` that fills it."""
    parts: dict[str, str] = {}

    def keep(name: str, compute: Callable[[], object]) -> object:
        if name not in parts:
            parts[name] = json.dumps(compute())
        return json.loads(parts[name])

    return parts, keep


def refused(images: Tensor) -> Tensor:
    """Stand in for a model that must not be run."""
    raise AssertionError("the model was run")
