"""What searches for the nearest adversarial points keep: these, the best points in the ball, and the costs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks.problem import AttackResult, Problem
from unmask.contract import eval_mode
from unmask.losses import margin, predictions


class Nearest:
    """The nearest adversarial point `nearest` (B, ...) of every example of a problem: `distance` (B,), inf if none, and
    `margin` (B,), NaN if none.

    An example is `broken`, and to be left alone, as soon as one such point lies in the ball. Of the points in the ball
    that are not adversarial the one with the highest loss is kept.
    """

    def __init__(self, problem: Problem) -> None:
        count, device = len(problem.x), problem.x.device
        self.problem = replace(problem, target=None)
        self.nearest = problem.x.clone()
        self.distance = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.margin = torch.full((count,), torch.nan, dtype=problem.x.dtype, device=device)
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device)
        self._x_adv = problem.x.clone()
        self._value = torch.full((count,), -torch.inf, dtype=problem.x.dtype, device=device)
        self._best_margin = self._value.clone()
        self._trace: list[Tensor] = []

    def survivors(self) -> Tensor:
        """Return the indices of the examples without an adversarial point in the ball."""
        return (~self.broken).nonzero().flatten()

    @torch.no_grad()
    def judge(self, rows: Tensor, x_adv: Tensor, *, traced: bool = False) -> tuple[Tensor, Tensor]:
        """Run the model on one point x_adv (S, ...) per row and record it; returns what `record` does."""
        return self.record(rows, x_adv, self.problem.logits(x_adv), traced=traced)

    def record(self, rows: Tensor, x_adv: Tensor, logits: Tensor, *, traced: bool = False) -> tuple[Tensor, Tensor]:
        """Note one point in the box for each of some rows, and its forward pass; with `traced`, as a line of the trace.

        Returns which points are adversarial (S,) bool, and their margins (S,).
        """
        part = self.problem.select(rows)
        value, margins = part.value(logits).to(self._value), margin(logits, part.y).to(self.margin)
        adversarial = predictions(logits) != part.y
        distance = part.threat.distance(x_adv, part.x)
        nearer = adversarial & (distance < self.distance[rows])
        self.nearest[rows[nearer]] = x_adv[nearer]
        self.distance[rows[nearer]] = distance[nearer]
        self.margin[rows[nearer]] = margins[nearer]
        inside = part.threat.contains(x_adv, part.x)
        better = inside & (adversarial | (value >= self._value[rows])) & ~self.broken[rows]
        self._x_adv[rows[better]] = x_adv[better]
        self._value[rows[better]] = value[better]
        self._best_margin[rows[better]] = margins[better]
        self.broken[rows] |= inside & adversarial
        self.forwards[rows] += 1
        if traced:
            line = torch.full_like(self._value, torch.nan)
            line[rows] = value
            self._trace.append(line)
        return adversarial, margins

    def result(self) -> AttackResult:
        """Return the best points in the ball; where the nearest lies outside, its projection is tried (one forward)."""
        rows = (~self.broken & self.distance.isfinite()).nonzero().flatten()
        if len(rows):
            with eval_mode(self.problem.model):
                self.judge(rows, self.problem.threat.project(self.nearest[rows], self.problem.x[rows]))
        trace = torch.stack(self._trace) if self._trace else self._value.new_empty((0, len(self._value)))
        return AttackResult(self._x_adv, self._best_margin, self.broken, self.forwards, self.backwards, trace)
