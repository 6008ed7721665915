"""Does the model take gradients while it answers?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.autograd import Variable

from unmask.contract import logits_of
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Sample


def inner_gradients(sample: Sample) -> Finding:
    """Count backward passes that run inside the model's own forward pass.

    Defences that optimise at test time call autograd in their forward pass; attacks that do not differentiate through
    it underestimate them or are misled (Croce et al. 2022, "Evaluating the Adversarial Robustness of Adaptive Test-time
    Defenses"). One forward per image.
    """
    with _counted() as calls, torch.enable_grad():
        logits_of(sample.model, sample.x.detach().requires_grad_())
    inside = calls[0] > 0
    return Finding(
        "inner_gradients",
        "warn" if inside else "ok",
        f"The model runs {calls[0]} backward passes within one forward pass: it optimises while it answers."
        if inside
        else "The model takes no gradients while it answers.",
        {"backward_passes": calls[0], "n": len(sample)},
        "Attack the network inside, and transfer the images; count the passes within to every evaluation."
        if inside
        else "",
        forwards=len(sample),
    )


class _Engine:
    """The autograd engine, with its backward passes counted."""

    def __init__(self, engine: Any, calls: list[int]) -> None:
        self._engine, self._calls = engine, calls

    def run_backward(self, *args: Any, **options: Any) -> Any:
        self._calls[0] += 1
        return self._engine.run_backward(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@contextmanager
def _counted() -> Iterator[list[int]]:
    calls, variable = [0], cast(Any, Variable)
    engine = variable._execution_engine
    variable._execution_engine = _Engine(engine, calls)
    try:
        yield calls
    finally:
        variable._execution_engine = engine
