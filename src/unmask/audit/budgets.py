"""What a budget's name means: the attacks, and the schedule that decides among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unmask.attacks import hop_skip_jump
from unmask.attacks.square import NORMS
from unmask.attacks.straight_through import Reach
from unmask.audit import autoattack
from unmask.audit.moves import (
    boundary_walk,
    coarse_to_fine,
    diversified,
    margin_ascent,
    neighbours,
    noise,
    polish,
    query_ascent,
    scale_invariant_ascent,
    smoothed,
    square_search,
    straight_through,
    stripes_search,
    targeted,
)
from unmask.audit.plan import PlannedAttack, check_plan, claim_attack
from unmask.audit.schedule import CHECK, Adaptive, Fixed, Schedule
from unmask.errors import AuditError, unknown
from unmask.threat import ThreatModel

DRAWS = 5
OPENING_SEARCH, LONGEST_SEARCH = 200, 5_000
EXACT = Reach()


@dataclass(frozen=True)
class Plan:
    """The attacks of an audit, its schedule, and what the record calls its budget."""

    attacks: tuple[PlannedAttack, ...]
    schedule: Schedule
    budget: str


@dataclass(frozen=True)
class Budget:
    """Most evaluations per survivor, breaks per evaluation that a run must promise, queries per black-box image."""

    per_survivor: float
    least_rate: float
    queries: int
    summary: str


BUDGETS: dict[str, Budget] = {
    "quick": Budget(200, 1 / 2_000, 200, "a first look: what is cheap to break"),
    "standard": Budget(1_500, 1 / 10_000, 2_000, "the figure to report"),
    "exhaustive": Budget(20_000, 1 / 500_000, 20_000, "when another point of a percent matters"),
}
Access = Literal["gradients", "scores", "labels"]
ACCESS: dict[Access, str] = {
    "gradients": "the model with its gradients (white box)",
    "scores": "its answers alone: logits, query by query",
    "labels": "its predicted classes alone",
}

PLANS: dict[str, Callable[[int], tuple[PlannedAttack, ...]]] = {
    "autoattack-standard": autoattack.standard,
    "autoattack-plus": autoattack.plus,
    "autoattack-rand": autoattack.rand,
}


def moves(classes: int, threat: ThreatModel, reach: Reach = EXACT) -> tuple[PlannedAttack, ...]:
    """Return the attacks that the adaptive schedule chooses among, for K classes, a threat model and its gradients.

    Where the model's own gradients are zero, but others pass the operations that stop them, all take those; where the
    model has both, one attack takes the others.
    """
    found = [
        margin_ascent(),
        smoothed() if reach.own else smoothed(50, noise=1 / 3),
        neighbours(),
        scale_invariant_ascent(),
        coarse_to_fine(),
        square_search(),
        polish(),
        diversified(),
        targeted(classes=classes),
        boundary_walk(classes=classes),
        query_ascent(),
    ]
    searching = ("square", "coarse-to-fine")
    found = [attack for attack in found if attack.name not in searching or threat.norm in NORMS]
    if reach.own and reach.blocked:
        found.append(straight_through(margin_ascent(), "straight-through"))
    elif reach.blocked:
        found = [straight_through(attack) if attack.gradients else attack for attack in found]
    return tuple(found)


def queries_only(threat: ThreatModel, opening: int = OPENING_SEARCH) -> tuple[PlannedAttack, ...]:
    """Return the attacks for a model that answers with logits alone; the first takes `opening` queries."""
    squares = (stripes_search(opening), square_search()) if threat.norm in NORMS else ()
    return (*squares, noise(), query_ascent())


def make_plan(
    budget: str | int | Sequence[PlannedAttack] | Plan,
    threat: ThreatModel,
    classes: int,
    claim: str | None,
    seed: int = 0,
    access: Access = "gradients",
    reach: Reach = EXACT,
) -> Plan:
    """Return the claim's attack, if any, and those of a budget for K classes, with their schedule.

    `budget` is a name of BUDGETS or PLANS, a number of evaluations per image, attacks of your own, which are run in
    turn, or a whole Plan, which is taken as it is. With `access` to less than gradients no image gets more queries than
    the number, or the budget's name, allows. `reach` says which gradients the model has: without any, the adaptive
    budgets spend all on queries. Raises AuditError for an unknown budget, access or claim, for two attacks
    of one name, for a claim or plan that needs gradients where there are none, and for a number of evaluations that the
    claim alone may use up.
    """
    if access not in ACCESS:
        raise AuditError(unknown("access", access, ACCESS))
    if isinstance(budget, Plan):
        return budget
    claimed = () if claim is None else (claim_attack(claim, threat),)
    if isinstance(budget, str) and budget.isdecimal():
        budget = int(budget)
    if isinstance(budget, str) and budget in PLANS:
        _refuse_gradients(access, f"the plan '{budget}'")
        return _fixed((*claimed, *PLANS[budget](classes)), budget)
    if not isinstance(budget, str | int):
        return _fixed((*claimed, *budget), "custom")
    if isinstance(budget, str) and budget not in BUDGETS:
        raise AuditError(unknown("budget", budget, [*BUDGETS, *PLANS]) + " A number of evaluations per image will do.")
    if access != "gradients":
        if claim is not None:
            _refuse_gradients(access, f"the claim's attack '{claim}'")
        return _black_box(budget, threat, access, seed)
    if isinstance(budget, int):
        _refuse_too_few(budget, 2 + sum(attack.cost(0) for attack in claimed), "the clean images and the claim")
    if reach.own or reach.blocked:
        attacks = (*claimed, *moves(classes, threat, reach))
        schedule = Adaptive(attacks, seed=seed)
    else:
        most = budget if isinstance(budget, int) else BUDGETS[budget].per_survivor
        attacks = (*claimed, *queries_only(threat, int(min(LONGEST_SEARCH, max(1, most / 2)))))
        schedule = _opened_by(attacks[len(claimed)], attacks, seed)
    check_plan(attacks)
    return Plan(attacks, _limited(schedule, budget), str(budget))


def _limited(schedule: Adaptive, budget: str | int) -> Adaptive:
    if isinstance(budget, int):
        return replace(schedule, most=float(budget))
    return replace(schedule, per_survivor=BUDGETS[budget].per_survivor, least_rate=BUDGETS[budget].least_rate)


def _opened_by(opener: PlannedAttack, attacks: tuple[PlannedAttack, ...], seed: int) -> Adaptive:
    return Adaptive(attacks, openers=(opener.name,), book=(opener.name,), seed=seed)


def _black_box(budget: str | int, threat: ThreatModel, access: Access, seed: int) -> Plan:
    queries = BUDGETS[budget].queries if isinstance(budget, str) else budget
    if access == "labels":
        _refuse_too_few(queries, DRAWS + 20, "the clean images and a few random corners")
        walk = PlannedAttack(
            "hop-skip-jump",
            lambda task: task.attack(
                hop_skip_jump, queries=queries - DRAWS - 4, samples=max(2, min(100, queries // 20))
            ),
            settings={"queries": queries - DRAWS - 4},
            description="along the decision boundary, by predicted classes alone",
        )
        return _fixed((noise(DRAWS, restarts=1), walk), str(budget))
    attacks = queries_only(threat, max(1, min(OPENING_SEARCH, queries // 2)))
    _refuse_too_few(queries, 2 + CHECK + attacks[0].cost(0), "the clean images and the first attack")
    return Plan(attacks, replace(_opened_by(attacks[0], attacks, seed), per_image=float(queries)), str(budget))


def _refuse_gradients(access: Access, what: str) -> None:
    if access != "gradients":
        raise AuditError(
            f"With access to {access} alone, {what} cannot be run: it needs gradients. Leave it out, or give "
            "access='gradients'."
        )


def _refuse_too_few(budget: int, needed: int, what: str) -> None:
    if budget < needed:
        raise AuditError(
            f"A budget of {budget} evaluations per image is too small: {what} may take {needed - 1}. Give at least "
            f"{needed}, or leave the claim out."
        )


def _fixed(attacks: tuple[PlannedAttack, ...], budget: str) -> Plan:
    check_plan(attacks)
    return Plan(attacks, Fixed(attacks), budget)
