"""The one gradient-ascent engine: start + loss + gradient + stepper. Every gradient attack is a value of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks.fast_passes import full_precision
from unmask.attacks.gradient import Estimator, exact
from unmask.attacks.problem import AttackResult, Problem, input_gradient, joined
from unmask.attacks.start import Start, Started
from unmask.attacks.stepper import Clock, Stepper
from unmask.contract import eval_mode, logits_of
from unmask.errors import AuditError
from unmask.losses import Loss, answers, margin

# On a CPU the activations of so many images stay in memory that is there already; those of a large batch are handed
# back to the system and fetched anew at every pass.
SLICE = 128

# Which loss is climbed at which step, for the examples still under attack.
LossSchedule = Callable[[Problem, Clock], Loss]


class Best:
    """The best iterate of every example so far, and what each has cost."""

    def __init__(self, problem: Problem, forwards: int | Tensor, backwards: int | Tensor) -> None:
        count, device = len(problem.x), problem.x.device
        self.top = problem.top
        self.x_adv = problem.x.clone()
        self.margin = torch.full((count,), -torch.inf, dtype=problem.x.dtype, device=device)
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device) + forwards
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device) + backwards
        self.trace: list[Tensor] = []

    def record(self, rows: Tensor, x_adv: Tensor, logits: Tensor, values: Tensor, y: Tensor) -> Tensor:
        """Note one iterate of some rows; returns which of them are broken now."""
        margins, broken = margin(logits, y, top=self.top).to(self.margin), answers(logits, y, self.top) != y
        better = broken | (margins > self.margin[rows])
        self.x_adv[rows[better]] = x_adv[better]
        self.margin[rows[better]] = margins[better]
        self.broken[rows] = broken
        self.forwards[rows] += 1
        line = torch.full_like(self.margin, torch.nan)
        line[rows] = values.to(line)
        self.trace.append(line)
        return broken

    def result(self) -> AttackResult:
        """Return what was noted; the trace has a line per noted iterate."""
        trace = torch.stack(self.trace) if self.trace else self.margin.new_empty((0, len(self.margin)))
        return AttackResult(self.x_adv, self.margin, self.broken, self.forwards, self.backwards, trace)


def ascend(
    problem: Problem,
    *,
    start: Start,
    stepper: Stepper,
    steps: int,
    gradient: Estimator | None = None,
    schedule: LossSchedule | None = None,
) -> AttackResult:
    """Climb the problem's loss, or the schedule's, for `steps` steps and return the best iterate of every example.

    An example that is broken leaves the batch at once. Costs one forward per iterate (steps + 1 of them) and one
    backward per step, plus what `start` and `gradient` add; both are counted per example. A module is attacked in eval
    mode and given back as it was. Raises AuditError for a negative number of steps.
    """
    if steps < 0:
        raise AuditError(f"steps is {steps}; expected 0 (judge the start alone) or more.")
    if not len(problem.x):
        return Best(problem, 0, 0).result()
    with eval_mode(problem.model), torch.enable_grad():
        return _ascend(problem, start, stepper, steps, gradient or exact(), schedule)


def _ascend(
    problem: Problem, start: Start, stepper: Stepper, steps: int, estimator: Estimator, schedule: LossSchedule | None
) -> AttackResult:
    started = start(problem)
    count, device = len(problem.x), problem.x.device
    if device.type != "cpu" or count <= SLICE:
        return _ascend_from(problem, started, stepper, steps, estimator, schedule)
    return joined(
        [
            _ascend_from(problem.select(rows), started.select(rows), stepper, steps, estimator, schedule)
            for rows in torch.arange(count, device=device).split(SLICE)
        ]
    )


def _ascend_from(
    problem: Problem,
    started: Started,
    stepper: Stepper,
    steps: int,
    estimator: Estimator,
    schedule: LossSchedule | None,
) -> AttackResult:
    x_adv, forwards, backwards = started
    best = Best(problem, forwards, backwards)
    rows = torch.arange(len(problem.x), device=problem.x.device)
    state = stepper.init(problem, x_adv)
    for step in range(steps + 1):
        clock = Clock(step, steps)
        if schedule is not None:
            problem = replace(problem, loss=schedule(problem, clock))
        graph = estimator.needs_graph and step < steps
        x_adv, logits, values = problem.forward(x_adv, graph=graph)
        judged, again = _in_full_precision(problem, x_adv.detach(), logits.detach()) if graph else (logits, 0)
        best.forwards[rows] += again
        kept = ~best.record(rows, x_adv.detach(), judged, values.detach(), problem.y)
        survivors = int(kept.sum())
        if step == steps or not survivors:
            break
        slope, forwards, backwards, batch_backwards = estimator.estimate(problem, x_adv, values, kept)
        best.backwards[rows] += batch_backwards
        x_adv, values = x_adv.detach(), values.detach()
        if survivors < len(rows):
            problem, rows, x_adv, values = problem.select(kept), rows[kept], x_adv[kept], values[kept]
            state = {name: tensor[kept] for name, tensor in state.items()}
        best.forwards[rows] += forwards
        best.backwards[rows] += backwards
        x_adv, state = stepper.update(problem, x_adv, slope, values, state, clock)
    return best.result()


@torch.no_grad()
def _in_full_precision(problem: Problem, x_adv: Tensor, logits: Tensor) -> tuple[Tensor, Tensor | int]:
    """Return the logits with breaks that a pass in half precision claims predicted again, and passes per row."""
    exact = full_precision(problem.model)
    claimed = answers(logits, problem.y, problem.top) != problem.y
    if exact is problem.model or not claimed.any():
        return logits, 0
    return logits.index_put((claimed,), logits_of(exact, x_adv[claimed])), claimed.long()


def climb(problem: Problem, *, start: Start, stepper: Stepper, steps: int) -> Tensor:
    """Climb the problem's loss for exactly `steps` steps with every example and return the last iterate (B, ...).

    This is the inner loop of adversarial training (Madry et al. 2017): nothing is dropped, judged or evaluated at the
    end.
    """
    x_adv = start(problem).x_adv
    state = stepper.init(problem, x_adv)
    for step in range(steps):
        leaf, _, values = problem.forward(x_adv, graph=True)
        slope = input_gradient(values, leaf)
        x_adv, state = stepper.update(problem, leaf.detach(), slope, values.detach(), state, Clock(step, steps))
    return x_adv
