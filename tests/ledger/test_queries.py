import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.errors import LedgerError
from unmask.ledger import Ledger, PlanEntry
from unmask.ledger.queries import (
    accuracy_by_restart,
    accuracy_by_step,
    attack_table,
    broken_by,
    claimed_accuracy,
    clean_accuracy,
    cost,
    counts,
    headline,
    robust_accuracy,
    status_by_id,
    statuses,
    survivors_after,
    wilson_interval,
)


@pytest.fixture(params=["memory", "file"])
def ledger(request, tmp_path, scenario):
    with scenario.open(None if request.param == "memory" else tmp_path / "run") as ledger:
        yield ledger


def test_the_known_answers_of_a_small_run(ledger, scenario):
    run = scenario.play(ledger).run()
    assert statuses(run).tolist() == ["broken"] * 8 + ["survived"] * 2
    assert status_by_id(run)[100] == "broken"
    assert status_by_id(run)[109] == "survived"
    assert counts(run) == {"broken": 8, "survived": 2, "error": 0, "not_run": 0}
    assert broken_by(run).tolist() == ["clean", "pgd-40", "pgd-40", "pgd-40", *["apgd"] * 4, "", ""]
    assert survivors_after(run, -1).tolist() == list(range(100, 110))
    assert survivors_after(run, 0).tolist() == list(range(101, 110))
    assert survivors_after(run, 1).tolist() == list(range(103, 110))
    assert survivors_after(run, 2).tolist() == list(range(104, 110))
    assert survivors_after(run, 3).tolist() == [108, 109]
    assert clean_accuracy(run) == 0.9
    assert claimed_accuracy(run) == 0.6
    assert robust_accuracy(run) == 0.2
    # clean 10 x 1; pgd-40 (9 + 7) x (41, 40); apgd 6 x (10, 9)
    assert cost(run) == (10 + 656 + 60, 640 + 54, 0.25 * 32)
    assert cost(run).evaluations == 1420


def test_the_attack_table(ledger, scenario):
    assert [tuple(row) for row in attack_table(scenario.play(ledger).run())] == [
        ("clean", "clean", 1, 10, 0, 1, 0.9, 10, 0, 2.5),
        ("pgd-40", "claim", 2, 9, 0, 3, 0.6, 656, 640, 4.0),
        ("apgd", "search", 1, 6, 0, 4, 0.2, 60, 54, 1.5),
    ]


def test_accuracy_by_restart_and_by_step(ledger, scenario):
    run = scenario.play(ledger).run()
    assert accuracy_by_restart(run, "pgd-40").tolist() == [0.7, 0.6]
    assert accuracy_by_restart(run, "apgd").tolist() == [0.2]
    by_step = accuracy_by_step(run, "pgd-40")
    assert len(by_step) == 41
    assert by_step[:3].tolist() == [0.9] * 3
    assert by_step[3:40].tolist() == [0.7] * 37
    assert by_step[40] == 0.6
    assert accuracy_by_step(run, "apgd").tolist() == [0.2]
    assert accuracy_by_step(run, "clean").tolist() == [0.9]
    for query in (accuracy_by_step, accuracy_by_restart):
        with pytest.raises(LedgerError, match=r"no attack in this run 'pgd-4'\. Did you mean 'pgd-40'\?"):
            query(run, "pgd-4")


def test_breaks_without_a_step_count_at_the_last_one(make_scenario):
    scenario = make_scenario(breaks={101: (1, 2), 102: (1, None), 103: (2, 44), 104: (2, None)})
    with scenario.play(scenario.open(None)) as ledger:
        by_step = accuracy_by_step(ledger.run(), "pgd-40")
    assert by_step.tolist() == [1.0] * 2 + [0.9] * 42 + [0.6]


def test_the_headline_says_it_all(ledger, scenario):
    assert headline(scenario.play(ledger).run()) == (
        "Claimed 60.0% (pgd-40), measured at most 20.0% [5.7, 51.0] under Linf(0.3): "
        "broken beyond the claim mostly by apgd, at 142 evaluations per image, on 10 images"
    )


def test_the_headline_without_a_claim_and_without_a_break(make_scenario):
    plan = (PlanEntry(attack="apgd", role="search"),)
    scenario = make_scenario(plan=plan, breaks={100: (0, None)})
    with scenario.play(scenario.open(None, claim=None)) as ledger:
        run = ledger.run()
    assert claimed_accuracy(run) is None
    assert [row.attack for row in attack_table(run)] == ["clean", "apgd"]
    assert accuracy_by_step(run, "clean").tolist() == [0.9]
    assert headline(run) == (
        "Clean 90.0%, measured at most 90.0% [59.6, 98.2] under Linf(0.3): no attack broke an image, "
        "at 18 evaluations per image, on 10 images"
    )


def test_the_headline_says_how_many_classes_count(make_scenario):
    scenario = make_scenario()
    with scenario.play(scenario.open(None, top=2)) as ledger:
        assert headline(ledger.run()).startswith("Top-2 accuracy: claimed 60.0% (pgd-40), measured at most 20.0%")


def test_the_headline_without_an_attack(make_scenario):
    scenario = make_scenario(plan=(PlanEntry(attack="clean", role="clean"),), breaks={100: (0, None)})
    with scenario.play(scenario.open(None, claim=None)) as ledger:
        assert headline(ledger.run()) == "Clean 90.0% [59.6, 98.2] on 10 images: no attack was run"


def test_no_headline_while_examples_are_not_run_or_ended_in_an_error(ledger, scenario):
    scenario.play(ledger, rounds=3)
    run = ledger.run()
    assert counts(run) == {"broken": 4, "survived": 0, "error": 0, "not_run": 6}
    with pytest.raises(LedgerError, match=r"6 of 10 examples have not been .* run the same command again"):
        headline(run)
    assert robust_accuracy(run) == 0.6
    rows = [scenario.event(3, "apgd", 0, example)._replace(status="error") for example in (104, 105)]
    ledger.commit(rows, np.empty((0, 1, 2, 3), np.float32), [], round=3, attack="apgd", restart=0, seconds=0.5)
    run = ledger.run()
    assert counts(run) == {"broken": 4, "survived": 0, "error": 2, "not_run": 4}
    with pytest.raises(LedgerError, match=r"4 of 10 .*; 2 of 10 examples ended in an error: mend the model"):
        headline(run)
    assert attack_table(run)[-1].errors == 2


def test_a_break_outweighs_an_error_before_it(scenario):
    with scenario.open(None) as ledger:
        none = np.empty((0, 1, 2, 3), np.float32)
        rows = [scenario.event(0, "clean", 0, 104)._replace(status="error")]
        ledger.commit(rows, none, [], round=0, attack="clean", restart=0, seconds=0.5)
        assert status_by_id(ledger.run())[104] == "error"
        scenario.play(ledger)
        assert status_by_id(ledger.run())[104] == "broken"


def test_queries_of_a_run_without_events(ledger):
    run = ledger.run()
    assert counts(run)["not_run"] == 10
    assert robust_accuracy(run) == clean_accuracy(run) == 1.0
    assert cost(run) == (0, 0, 0.0)
    assert accuracy_by_step(run, "pgd-40").tolist() == [1.0] * 41
    with pytest.raises(LedgerError, match="10 of 10"):
        headline(run)


def test_a_run_is_not_changed_by_later_commits(ledger, scenario):
    run = scenario.play(ledger, rounds=1).run()
    scenario.play(ledger)
    assert counts(run)["not_run"] == 9


# Wilson's score interval worked out by hand from its definition, the two roots p of (k/n - p)^2 = z^2 p (1 - p) / n:
# with z^2 = 3.8416 and k/n = 2/10 that is 1.38416 p^2 - 0.78416 p + 0.04 = 0; k = 0 leaves p = z^2 / (n + z^2).
@pytest.mark.parametrize(
    ("k", "n", "z", "low", "high"),
    [
        (2, 10, 1.96, 0.0566809480, 0.5098431533),
        (0, 10, 1.96, 0.0, 3.8416 / 13.8416),
        (10, 10, 1.96, 10 / 13.8416, 1.0),
        (1, 2, 1.0, 0.5 - 1 / math.sqrt(12), 0.5 + 1 / math.sqrt(12)),
        (41, 1000, 1.96, 0.0303648040, 0.0551482890),
        (0, 1, 1.0, 0.0, 0.5),
        (3, 4, 0.0, 0.75, 0.75),
    ],
)
def test_the_wilson_interval(k, n, z, low, high):
    assert wilson_interval(k, n, z) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_no_interval_of_a_share_that_is_none(k, n):
    with pytest.raises(LedgerError, match=f"k={k}, n={n}"):
        wilson_interval(k, n)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_of_the_interval_solve_its_equation(pair):
    k, n = pair
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for end in (low, high):
        assert (k / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-6, abs=1e-12)


# ----------------------------------------------------------------------------------------------------------- properties

outcomes = st.lists(st.sampled_from(["", "0", "1", "2", "3", "error"]), min_size=1, max_size=12)


def by_definition(told: list[str], stop: int) -> list[str]:
    """Statuses by the ledger's definition, one example at a time, of a run stopped after `stop` of its four rounds."""
    found = []
    for outcome in told:
        if outcome.isdigit() and int(outcome) < stop:
            found.append("broken")
        elif outcome == "error" and stop > 1:
            found.append("error")
        else:
            found.append("survived" if stop == 4 else "not_run")
    return found


def play(scenario, told: list[str], stop: int, splits: random.Random | None) -> Ledger:
    """Run the first rounds; `splits` cuts and shuffles each of them into batches at random, None takes it whole."""
    ledger = scenario.open(None)
    for number in range(stop):
        entry = ledger.spec.rounds()[number]
        left = survivors_after(ledger.run(), number - 1).tolist()
        if splits:
            splits.shuffle(left)
        while left:
            size = splits.randint(1, len(left)) if splits else len(left)
            batch, left = left[:size], left[size:]
            rows = [scenario.event(number, entry.attack, entry.restart, example) for example in batch]
            rows = [row._replace(status="error") if number == 1 and told[row.id] == "error" else row for row in rows]
            kept = [row.id for row in rows if row.status == "broken"]
            x_adv = np.array([scenario.image(number, i) for i in kept], np.float32)
            ledger.commit(rows, x_adv, kept, round=number, attack=entry.attack, restart=entry.restart, seconds=0.1)
    return ledger


@settings(deadline=None, max_examples=60)
@given(outcomes, st.integers(0, 4), st.randoms(use_true_random=False))
def test_what_a_run_says_does_not_depend_on_its_batches(make_scenario, told, stop, splits):
    breaks = {i: (int(outcome), 1) for i, outcome in enumerate(told) if outcome.isdigit()}
    scenario = make_scenario(ids=np.arange(len(told)), breaks=breaks)
    whole, split = play(scenario, told, stop, None), play(scenario, told, stop, splits)
    a, b = whole.run(), split.run()
    assert statuses(a).tolist() == statuses(b).tolist() == by_definition(told, stop)
    assert broken_by(a).tolist() == broken_by(b).tolist()
    assert [row[:9] for row in attack_table(a)] == [row[:9] for row in attack_table(b)]
    assert accuracy_by_step(a, "pgd-40").tolist() == accuracy_by_step(b, "pgd-40").tolist()
    assert robust_accuracy(a) <= claimed_accuracy(a) <= clean_accuracy(a)
    for one, other in zip(whole.best(), split.best(), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
