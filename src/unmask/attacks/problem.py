"""A batch of images under attack, and what an attack brings back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.attacks.fast_passes import fast_passes
from unmask.contract import Model, check_images, check_labels, eval_mode, logits_of
from unmask.errors import AuditError, DataError
from unmask.losses import Loss, cross_entropy
from unmask.streams import Streams
from unmask.threat import ThreatModel


@dataclass(frozen=True)
class AttackResult:
    """The best perturbed image found per example, and what it cost.

    x_adv (B, C, H, W); margin (B,) = max_{j != y} z_j - z_y at x_adv; broken (B,) bool: predicted other than y (both as
    `losses.margin` and `losses.answers` say where an attack is given `top`);
    forwards, backwards int64 (B,): passes of each example through the model; trace (T, B): the ascended loss at every
    iterate, NaN where the example was no longer attacked.
    """

    x_adv: Tensor
    margin: Tensor
    broken: Tensor
    forwards: Tensor
    backwards: Tensor
    trace: Tensor


@dataclass(frozen=True)
class Problem:
    """The examples still under attack: images x (B, ...), labels y (B,), what to climb, and their random streams.

    `clean_logits` (B, K) are there for attacks that asked for them by `with_clean_logits`. An image is broken once y is
    not among the `top` likeliest classes.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: ThreatModel
    loss: Loss
    streams: Streams
    target: Tensor | None = None
    clean_logits: Tensor | None = None
    top: int = 1

    def select(self, rows: Tensor) -> Problem:
        """Return the problem of some rows (bool mask or indices)."""
        target = None if self.target is None else self.target[rows]
        clean = None if self.clean_logits is None else self.clean_logits[rows]
        streams = self.streams.select(rows)
        return replace(self, x=self.x[rows], y=self.y[rows], streams=streams, target=target, clean_logits=clean)

    def logits(self, x_adv: Tensor) -> Tensor:
        """Return checked logits (B, K)."""
        return logits_of(self.model, x_adv)

    def value(self, logits: Tensor) -> Tensor:
        """Return the ascended loss per example (B,). Raises DataError for classes that the model does not have."""
        check_labels(self.y, len(logits), logits.shape[1])
        if self.target is not None:
            check_labels(self.target, len(logits), logits.shape[1], name="Targets")
        return self.loss(logits, self.y, self.target)

    def forward(self, x_adv: Tensor, *, graph: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return (x_adv, logits, loss values); with `graph`, the values can be differentiated by x_adv."""
        with torch.set_grad_enabled(graph):
            x_adv = x_adv.detach().requires_grad_(graph)
            logits = self.logits(x_adv)
            return x_adv, logits, self.value(logits)


def pose(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    generator: torch.Generator | Streams | None,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
    top: int = 1,
) -> Problem:
    """Check an attack's inputs and bind them. Raises DataError for unusable images, labels or targets.

    Without a generator, the streams are those of `torch.Generator().manual_seed(0)`.
    """
    check_images(x, threat.low, threat.high)
    check_labels(y, len(x))
    if target is not None:
        check_labels(target, len(x), name="Targets")
        if bool((target == y).any()):
            raise DataError(
                f"The target is the label itself for {int((target == y).sum())} of {len(x)} images; expected a wrong "
                "class for each (see unmask.attacks.targets)."
            )
    streams = Streams.of(torch.Generator().manual_seed(0) if generator is None else generator, x)
    return Problem(fast_passes(model, x), x.detach(), y, threat, loss, streams, target, top=top)


def input_gradient(values: Tensor, x_adv: Tensor) -> Tensor:
    """Return d(sum of values)/dx_adv, finite; zero where the model gives none. Parameters get no gradient."""
    if not values.requires_grad:
        return torch.zeros_like(x_adv)
    (gradient,) = torch.autograd.grad(values, x_adv, torch.ones_like(values), allow_unused=True)
    return torch.zeros_like(x_adv) if gradient is None else torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)


def with_clean_logits(problem: Problem) -> Problem:
    """Return the problem with the logits of its clean images. One forward; none for an empty batch."""
    if not len(problem.x):
        return replace(problem, clean_logits=problem.x.new_empty((0, 2)))
    with eval_mode(problem.model), torch.no_grad():
        logits = problem.logits(problem.x)
    check_labels(problem.y, *logits.shape)
    return replace(problem, clean_logits=logits)


def restarted(attack: Callable[[Problem], AttackResult], problem: Problem, restarts: int) -> AttackResult:
    """Run the attack up to `restarts` times, as `in_turn`. Raises AuditError for fewer than one restart."""
    if restarts < 1:
        raise AuditError(f"restarts is {restarts}; expected 1 (a single run) or more.")
    return in_turn([attack] * restarts, problem)


def in_turn(attacks: Sequence[Callable[[Problem], AttackResult]], problem: Problem) -> AttackResult:
    """Run one or more attacks, each only on the examples that survived those before, with fresh streams.

    Returns per example the best x_adv over all runs, summed costs, and the traces one below the other.
    """
    first, *others = attacks
    result = first(replace(problem, streams=problem.streams.child("restart", 0)))
    for restart, attack in enumerate(others, start=1):
        rows = (~result.broken).nonzero().flatten()
        if not len(rows):
            break
        again = problem.select(rows)
        result = _merge(result, rows, attack(replace(again, streams=again.streams.child("restart", restart))))
    return result


def joined(parts: Sequence[AttackResult]) -> AttackResult:
    """Return the results of a batch's parts, in order, as those of the batch."""
    length = max(len(part.trace) for part in parts)
    traces = [
        torch.cat([part.trace, part.trace.new_full((length - len(part.trace), part.trace.shape[1]), torch.nan)])
        for part in parts
    ]
    columns = ("x_adv", "margin", "broken", "forwards", "backwards")
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in columns}
    return AttackResult(**whole, trace=torch.cat(traces, dim=1))


def _merge(old: AttackResult, rows: Tensor, new: AttackResult) -> AttackResult:
    better = new.broken | (new.margin > old.margin[rows])
    merged = replace(
        old,
        x_adv=old.x_adv.index_put((rows[better],), new.x_adv[better]),
        margin=old.margin.index_put((rows[better],), new.margin[better]),
        broken=old.broken.index_put((rows,), new.broken),
        forwards=old.forwards.index_add(0, rows, new.forwards),
        backwards=old.backwards.index_add(0, rows, new.backwards),
    )
    trace = torch.full((len(new.trace), len(old.margin)), torch.nan, dtype=old.trace.dtype, device=old.trace.device)
    trace[:, rows] = new.trace
    return replace(merged, trace=torch.cat([old.trace, trace]))
