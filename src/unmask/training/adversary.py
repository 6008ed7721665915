"""The adversary inside training: PGD on the model as it stands, in eval mode, leaving no trace on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unmask.attacks.ascent import climb
from unmask.attacks.problem import Problem
from unmask.attacks.start import uniform
from unmask.attacks.stepper import fixed
from unmask.attacks.targets import least_likely_target, random_target
from unmask.contract import logits_of
from unmask.errors import RecipeError, unknown
from unmask.losses import cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel

Aim = Literal["untargeted", "least_likely", "random"]


@dataclass(frozen=True)
class PgdAdversary:
    """PGD on the cross-entropy from a uniform start; the last iterate is used, as in Madry et al. 2018.

    `step_size` is in pixels. `aim` "least_likely" or "random" descends towards that wrong class instead (the LL rows
    of Mosbach et al.). With `eval_mode` (the default) batch-norm statistics are neither used from nor updated by the
    batch; without it the batch's own statistics are used, and the running ones are left as they were. Raises
    RecipeError for an unknown aim, or if there is no step to take.
    """

    threat: ThreatModel
    steps: int
    step_size: float
    aim: Aim = "untargeted"
    eval_mode: bool = True

    def __post_init__(self) -> None:
        if self.aim not in get_args(Aim):
            raise RecipeError(unknown("aim of the adversary", self.aim, get_args(Aim)))
        if self.steps < 1 or not self.step_size > 0:
            raise RecipeError(
                f"The adversary takes {self.steps} steps of {self.step_size} pixels; expected 1 or more, above 0."
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        """Return adversarial images for x (B, C, H, W), y (B,)."""
        with _attacked(model, self.eval_mode):
            target = self._target(model, x, y, streams)
            problem = Problem(model, x, y, self.threat, cross_entropy, streams, target)
            return climb(problem, start=uniform(), stepper=fixed(self.step_size), steps=self.steps)

    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""
        return {
            "attack": "pgd", "threat": str(self.threat), "steps": self.steps, "step_size": self.step_size,
            "aim": self.aim, "eval_mode": self.eval_mode,
        }  # fmt: skip

    def _target(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor | None:
        if self.aim == "untargeted":
            return None
        if self.aim == "least_likely":
            return least_likely_target(model, x, y)
        with torch.no_grad():
            classes = logits_of(model, x[:1]).shape[1]
        return random_target(y, classes, streams.child("target"))


@contextmanager
def _attacked(model: nn.Module, eval_mode: bool) -> Iterator[None]:
    """Put the model in the attack's mode, and give back its modes and batch-norm statistics as they were."""
    modes = {module: module.training for module in model.modules()}
    statistics = {} if eval_mode else {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train(not eval_mode)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in model.named_buffers():
            if name in statistics:
                buffer.copy_(statistics[name])
