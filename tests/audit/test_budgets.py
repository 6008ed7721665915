"""What the name of a budget, or a number, means."""

from __future__ import annotations

import re

import pytest

from unmask.attacks.straight_through import Reach
from unmask.audit import BUDGETS, PLANS, PlannedAttack, make_plan
from unmask.audit.budgets import moves
from unmask.audit.schedule import Adaptive, Fixed
from unmask.errors import AuditError
from unmask.threat import L1, L2, Linf, ThreatModel

THREAT = Linf("0.1")


def of_name(name: str, classes: int, threat: ThreatModel = THREAT) -> PlannedAttack:
    return next(attack for attack in moves(classes, threat) if attack.name == name)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_named_budget_is_adaptive_with_the_claim_first(name):
    plan = make_plan(name, THREAT, 10, "pgd-40", seed=7)
    assert isinstance(plan.schedule, Adaptive) and plan.budget == name
    assert plan.schedule.per_survivor == BUDGETS[name].per_survivor
    assert plan.schedule.least_rate == BUDGETS[name].least_rate and plan.schedule.seed == 7
    assert [attack.name for attack in plan.attacks if attack.role == "claim"] == [plan.attacks[0].name] == ["pgd-40"]
    assert plan.schedule.plan == plan.attacks


def test_larger_budgets_spend_more_on_less():
    quick, standard, exhaustive = (BUDGETS[name] for name in ("quick", "standard", "exhaustive"))
    assert quick.per_survivor < standard.per_survivor < exhaustive.per_survivor
    assert quick.least_rate > standard.least_rate > exhaustive.least_rate
    assert quick.queries < standard.queries < exhaustive.queries


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("claim", ["fgsm", None])
def test_autoattacks_plans_are_run_in_turn(name, claim):
    plan = make_plan(name, THREAT, 10, claim)
    assert isinstance(plan.schedule, Fixed) and plan.budget == name
    assert len(plan.attacks) == len(PLANS[name](10)) + (claim is not None)


def test_autoattacks_plans_hold_what_their_names_say():
    said = {name: [(attack.name, attack.restarts) for attack in PLANS[name](10)] for name in PLANS}
    assert said == {
        "autoattack-standard": [("apgd-ce", 1), ("apgd-t", 1), ("fab-t", 1), ("square", 1)],
        "autoattack-plus": [
            ("apgd-ce", 5),
            ("apgd-dlr", 5),
            ("fab", 5),
            ("square", 1),
            ("apgd-t", 1),
            ("fab-t", 1),
        ],
        "autoattack-rand": [("apgd-ce", 5), ("apgd-dlr", 5)],
    }


def test_a_number_is_the_evaluations_of_an_image_as_text_too():
    plans = [make_plan(number, THREAT, 10, "pgd-40") for number in (300, "300")]
    for plan in plans:
        assert isinstance(plan.schedule, Adaptive) and plan.schedule.most == 300 and plan.budget == "300"
    assert plans[0].schedule.describe() == plans[1].schedule.describe()


def test_attacks_of_your_own_are_run_in_turn():
    mine = [of_name("margin", 10), of_name("polish", 10)]
    plan = make_plan(mine, THREAT, 10, None)
    assert plan.attacks == tuple(mine) and isinstance(plan.schedule, Fixed) and plan.budget == "custom"


@pytest.mark.parametrize(("budget", "claim"), [(0, None), (1, None), (50, "pgd-40"), ("82", "pgd-40"), (3, "fgsm")])
def test_a_number_that_the_claim_alone_uses_up_is_refused(budget, claim):
    with pytest.raises(AuditError, match=f"budget of {budget} evaluations per image is too small"):
        make_plan(budget, THREAT, 10, claim)


@pytest.mark.parametrize(("budget", "claim"), [(2, None), (83, "pgd-40"), (5, "fgsm")])
def test_a_number_that_the_refusal_names_is_enough(budget, claim):
    make_plan(budget, THREAT, 10, claim)
    with pytest.raises(AuditError, match=f"at least {budget}"):
        make_plan(budget - 1, THREAT, 10, claim)


@pytest.mark.parametrize(("budget", "words"), [("standart", "'standard'"), ("autoattack", "autoattack-standard")])
def test_an_unknown_name_is_refused_with_those_that_are_known(budget, words):
    with pytest.raises(AuditError, match=re.escape(words)) as caught:
        make_plan(budget, THREAT, 10, "pgd-40")
    assert "number of evaluations" in str(caught.value)


@pytest.mark.parametrize(("classes", "restarts"), [(2, 1), (3, 2), (10, 9), (200, 9)])
def test_attacks_of_one_class_start_once_per_wrong_class_and_nine_times_at_most(classes, restarts):
    assert of_name("targeted", classes).restarts == of_name("boundary", classes).restarts == restarts


def test_square_windows_are_left_out_where_the_norm_has_none():
    by_norm = {str(threat): {attack.name for attack in moves(10, threat)} for threat in (THREAT, L2("1"), L1("5"))}
    linf, l2, l1 = by_norm.values()
    assert linf == l2 and linf - l1 == {"square", "coarse-to-fine"}


def test_the_schedules_openers_and_book_are_moves():
    names = {attack.name for attack in moves(10, L1("5"))}
    schedule = make_plan("standard", L1("5"), 10, None).schedule
    assert isinstance(schedule, Adaptive)
    assert {*schedule.openers, *schedule.book} <= names


@pytest.mark.parametrize("budget", [*BUDGETS, 400])
def test_without_any_gradient_all_is_spent_on_queries(budget):
    plan = make_plan(budget, THREAT, 10, "pgd-40", reach=Reach(own=False))
    search = [attack for attack in plan.attacks if attack.role == "search"]
    assert search and not any(attack.gradients for attack in search)
    assert plan.schedule.openers == plan.schedule.book == (search[0].name,)
    assert search[0].cost(0) <= (BUDGETS[budget].per_survivor if isinstance(budget, str) else budget) / 2


def test_blocked_gradients_are_looked_through_by_all_moves_or_by_one():
    dead = {attack.name: attack for attack in moves(10, THREAT, Reach(own=False, blocked=("round",)))}
    for name, attack in dead.items():
        assert (attack.settings.get("gradients") == "straight-through") == attack.gradients, name
    both = {attack.name: attack for attack in moves(10, THREAT, Reach(own=True, blocked=("round",)))}
    extra = set(both) - {attack.name for attack in moves(10, THREAT)}
    assert extra == {"straight-through"} and both["straight-through"].settings["gradients"] == "straight-through"


@pytest.mark.parametrize("access", ["scores", "labels"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_named_budget_can_be_spent_on_a_black_box(budget, access):
    plan = make_plan(budget, THREAT, 10, None, access=access)
    assert plan.attacks and plan.attacks[0].cost(0) < BUDGETS[budget].queries
