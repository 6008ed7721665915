"""Transfer: images crafted on surrogate models and tried on the attacked model, which gives answers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unmask.attacks.ascent import Best
from unmask.attacks.problem import AttackResult, Problem, in_turn, input_gradient, pose, restarted
from unmask.attacks.start import Start, uniform
from unmask.attacks.stepper import Clock, Stepper, fixed
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError
from unmask.losses import Loss, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def transfer(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    surrogates: Sequence[Model],
    steps: int = 20,
    step_size: float | None = None,
    momentum: float = 1.0,
    diversity: float = 0.5,
    check_every: int = 5,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    loss: Loss | None = None,
    start: Start | None = None,
    top: int = 1,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) along the gradients of `surrogates`, models of the same classes; one after another.

    The steps are those of MI-FGSM with decay `momentum` (Dong et al. 2018, Eq. 6 and 7); before each, every image is,
    with probability `diversity`, shrunk to 90-100% and padded back with zeros at random (DIM, Xie et al. 2019). At
    the start, every `check_every` steps and after the last, the attacked model sees the survivors: what breaks it is
    left alone from then on. So it answers up to 1 + ceil(steps / check_every) times per surrogate and restart. Starts
    are uniform in the ball unless `start` says otherwise; `step_size` is in pixels, by default 2.5 eps / steps;
    `loss` is by default the margin. An image is broken once its label is not among the `top` likeliest classes.

    `forwards` and `backwards` count the passes through the attacked model and the surrogates alike; the trace holds the
    loss on the attacked model. Raises DataError or ModelError for unusable inputs or outputs, AuditError for settings
    out of range, and for `diversity` on what is not (B, C, H, W).
    """
    climbed = partial(margin, top=top) if loss is None else loss
    problem = pose(model, x, y, threat=threat, generator=generator, loss=climbed, target=target, top=top)
    _check_settings(x, surrogates, steps, diversity, check_every)
    stepper = fixed(2.5 * threat.eps / max(steps, 1) if step_size is None else step_size, accumulate=momentum)
    begin = uniform() if start is None else start

    def through(surrogate: Model) -> Callable[[Problem], AttackResult]:
        return lambda part: _craft(part, surrogate, begin, stepper, steps, diversity, check_every)

    crafts = [through(surrogate) for surrogate in surrogates]
    return restarted(lambda part: in_turn(crafts, part), problem, restarts)


def _check_settings(x: Tensor, surrogates: Sequence[Model], steps: int, diversity: float, check_every: int) -> None:
    if not surrogates:
        raise AuditError("There are no surrogates to craft on; give one model or more.")
    if steps < 0:
        raise AuditError(f"steps is {steps}; expected 0 (judge the start alone) or more.")
    if check_every < 1:
        raise AuditError(f"check_every is {check_every}; expected 1 (every step) or more.")
    if not 0 <= diversity <= 1:
        raise AuditError(f"diversity is {diversity}; expected a probability from 0 to 1.")
    if diversity and x.dim() != 4:
        raise AuditError(f"diversity shrinks images (B, C, H, W), and these are {tuple(x.shape)}; set diversity=0.")


def _craft(
    problem: Problem,
    surrogate: Model,
    start: Start,
    stepper: Stepper,
    steps: int,
    diversity: float,
    check_every: int,
) -> AttackResult:
    if not len(problem.x):
        return Best(problem, 0, 0).result()
    with eval_mode(problem.model), eval_mode(surrogate), torch.enable_grad():
        x_adv, forwards, backwards = start(problem)
        best = Best(problem, forwards, backwards)
        rows = torch.arange(len(problem.x), device=problem.x.device)
        state = stepper.init(problem, x_adv)
        for step in range(steps + 1):
            if step % check_every == 0 or step == steps:
                x_adv, logits, values = problem.forward(x_adv, graph=False)
                kept = ~best.record(rows, x_adv, logits, values, problem.y)
                if step == steps or not kept.any():
                    break
                problem, rows, x_adv = problem.select(kept), rows[kept], x_adv[kept]
                state = {name: tensor[kept] for name, tensor in state.items()}
            x_adv, values = _seen(problem, surrogate, x_adv, diversity)
            best.forwards[rows] += 1
            best.backwards[rows] += int(values.requires_grad)
            slope = input_gradient(values, x_adv)
            clock = Clock(step, steps)
            x_adv, state = stepper.update(problem, x_adv.detach(), slope, values.detach(), state, clock)
    return best.result()


def _seen(problem: Problem, surrogate: Model, x_adv: Tensor, diversity: float) -> tuple[Tensor, Tensor]:
    """Return x_adv and the loss values (B,) of the surrogate on it, shrunk at random, to be differentiated by x_adv."""
    shrink = _shrinking(problem, diversity) if diversity else lambda images: images
    crafting = replace(problem, model=lambda images: surrogate(shrink(images)))
    x_adv, _, values = crafting.forward(x_adv, graph=True)
    return x_adv, values


def _shrinking(problem: Problem, diversity: float) -> Callable[[Tensor], Tensor]:
    """Draw per image whether it is shrunk, how far and where to; returns the map (B, C, H, W) -> same that does it."""
    height, width = problem.x.shape[2:]
    chosen, size, top, left = problem.streams.uniform((4,)).to(problem.x).unbind(1)
    shrunk = (chosen < diversity).view(-1, 1, 1, 1)
    rows, columns = _resize(height, size, top)[:, None], _resize(width, size, left)[:, None]
    return lambda images: torch.where(shrunk, rows @ images @ columns.transpose(2, 3), images)


def _resize(length: int, size: Tensor, place: Tensor) -> Tensor:
    """Return matrices (B, length, length) that shrink an axis to 90-100% by linear interpolation, with zeros around.

    `size` and `place` (B,) in [0, 1) choose the new length, a whole number of pixels, and where it begins.
    """
    smallest = max(9 * length // 10, 1)
    kept = smallest + (size * (length - smallest + 1)).floor()
    first = (place * (length - kept + 1)).floor()
    pixels = torch.arange(length).to(size)
    offset = pixels - first[:, None]
    source = ((offset + 0.5) * length / kept[:, None] - 0.5).clamp(0, length - 1)
    within = (offset >= 0) & (offset < kept[:, None])
    return (1 - (source[:, :, None] - pixels).abs()).clamp(min=0) * within[:, :, None]
