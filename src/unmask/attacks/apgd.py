"""APGD and its targeted form: gradient ascent that needs no step size, as in AutoAttack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks.adaptive import adaptive, sparse
from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, Problem, in_turn, pose, restarted, with_clean_logits
from unmask.attacks.start import Start, at, clean, noised, uniform
from unmask.attacks.targets import ranked_targets
from unmask.contract import Model
from unmask.errors import AuditError
from unmask.losses import Loss, cross_entropy, dlr, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    loss: Loss = cross_entropy,
    restarts: int = 1,
    generator: torch.Generator | Streams | None = None,
    target: Tensor | None = None,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by Auto-PGD (Croce & Hein 2020, Algorithm 1; for L1 Croce & Hein 2021).

    Steps start at 2 eps and are halved where they do not pay; starts are uniform in the ball unless `start` says
    otherwise. For L1 steps are sparse (see `adaptive.sparse`), starts are projected N(0, 1) noise, and two times three
    tenths of the steps are spent in the balls of 3 eps and 2 eps, whose best points, projected, begin the next stage;
    this costs two forwards more. AutoAttack's APGD-CE is this with its defaults. Cross-entropy has no gradient left
    where logits are large; `dlr` and `margin` do not care about their scale. A loss's values must tell progress, which
    those of `scale_invariant` do not. Raises DataError or ModelError for unusable inputs or outputs.
    """
    problem = pose(model, x, y, threat=threat, generator=generator, loss=_telling(loss), target=target)
    return restarted(lambda part: _climbed(part, start, steps), problem, restarts)


def targeted_apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    steps: int = 100,
    targets: int = 9,
    loss: Loss = dlr,
    generator: torch.Generator | Streams | None = None,
    start: Start | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by APGD towards each of the `targets` likeliest wrong classes in turn.

    This is AutoAttack's APGD-T (Croce & Hein 2020). Any misclassification counts as a break and ends an example's runs.
    The targets cost one forward and are ranked by the clean logits; a model with fewer wrong classes has one run for
    each. Raises DataError or ModelError for unusable inputs or outputs, AuditError for fewer than one target.
    """
    if targets < 1:
        raise AuditError(f"targets is {targets}; expected 1 (the likeliest wrong class) or more.")
    problem = with_clean_logits(pose(model, x, y, threat=threat, generator=generator, loss=_telling(loss)))
    assert problem.clean_logits is not None

    def towards(rank: int) -> Callable[[Problem], AttackResult]:
        def attack(part: Problem) -> AttackResult:
            assert part.clean_logits is not None
            aimed = replace(part, target=ranked_targets(part.clean_logits, part.y)[:, rank])
            return _climbed(aimed, start, steps)

        return attack

    runs = min(targets, problem.clean_logits.shape[1] - 1)
    result = in_turn([towards(rank) for rank in range(runs)], problem)
    return replace(result, forwards=result.forwards + 1)


def _climbed(problem: Problem, start: Start | None, steps: int) -> AttackResult:
    if problem.threat.norm != "l1":
        return ascend(problem, start=start or uniform(), stepper=adaptive(), steps=steps)
    begin, share = start or noised(clean(), 1.0), max(3 * steps // 10, 0)
    forwards = backwards = torch.zeros(len(problem.x), dtype=torch.int64, device=problem.x.device)
    for factor in (3, 2):
        wide = replace(problem, threat=problem.threat.with_eps(factor * problem.threat.exact_eps))
        found = ascend(wide, start=begin, stepper=sparse(), steps=share)
        begin = at(found.x_adv)
        forwards, backwards = forwards + found.forwards, backwards + found.backwards
    result = ascend(problem, start=begin, stepper=sparse(), steps=steps - 2 * share)
    return replace(result, forwards=result.forwards + forwards, backwards=result.backwards + backwards)


def _telling(loss: Loss) -> Loss:
    """Return the loss, or where DLR has too few classes the margin: the same direction, and not a constant value."""
    if loss is not dlr:
        return loss
    return lambda logits, y, target: (margin if logits.shape[1] < (3 if target is None else 4) else dlr)(
        logits, y, target
    )
