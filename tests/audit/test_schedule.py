"""What the adaptive schedule decides, told made-up events: no model and no attack is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.audit.plan import PlannedAttack, Task
from unmask.audit.schedule import CHECK, Adaptive, Fixed, History, Turn
from unmask.ledger import ExampleEvent

COST = 10
BOOK = ("margin", "smoothed", "polish", "scale-invariant")
# What one run does to an image: (attack, restart, image, best margin so far) -> status and margin.
Answer = Callable[[str, int, int, float], tuple[str, float]]


def never_run(task: Task) -> object:
    raise AssertionError("a schedule runs nothing")


def attack(name: str, restarts: int = 1000, cost: int = COST, **options: object) -> PlannedAttack:
    return PlannedAttack(name, never_run, restarts, cost=lambda restart: cost, **options)  # type: ignore[arg-type]


PLAN = (attack("pgd-40", 1, role="claim"), *map(attack, BOOK), attack("strong"), attack("dud"))


def event(turn: Turn, example: int, status: str, margin: float, cost: int = COST) -> ExampleEvent:
    forwards = 1 if turn.round == 0 else cost + (status == "broken")
    return ExampleEvent(*turn[:3], example, status, margin, None, 0, 0.1, forwards, 0, None, 0.0)  # type: ignore[arg-type]


def play(
    schedule: Adaptive | Fixed,
    count: int,
    answer: Answer,
    *,
    check: Callable[[History, tuple[Turn, ...]], None] = lambda history, turns: None,
    most_rounds: int = 5000,
) -> tuple[list[Turn], History, list[list[ExampleEvent]]]:
    """Follow a schedule to its end: its turns, what they showed, and the events of each."""
    history, turns, told = History(count, schedule.plan), [], []
    costs = {planned.name: planned.cost for planned in schedule.plan}
    while decided := schedule.next_turns(history):
        rows = np.concatenate([turn.rows for turn in decided])
        assert len(np.unique(rows)) == len(rows)
        assert [turn.round for turn in decided] == list(range(len(turns), len(turns) + len(decided)))
        check(history, decided)
        turns += decided
        assert len(turns) <= most_rounds
        for turn in decided:
            events = []
            for row in turn.rows.tolist():
                status, margin = answer(turn.attack, turn.restart, row, float(history.margin[row]))
                spent = 1 if turn.attack == "clean" else costs[turn.attack](turn.restart)
                events.append(event(turn, row, status, margin, spent))
            history.add(turn.rows, events)
            told.append(events)
    return turns, history, told


def seeded(name: str, restart: int, row: int) -> np.random.Generator:
    return np.random.default_rng([restart, row, *name.encode()])


def nothing_breaks(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
    return "survived", -1.0 + 0.01 * seeded(name, restart, row).normal()


def tries(history: History, name: str) -> np.ndarray:
    return history.tries[:, history.moves.index(name)]


def same(left: Sequence[Turn], right: Sequence[Turn]) -> bool:
    return len(left) == len(right) and all(
        a[:3] == b[:3] and np.array_equal(a.rows, b.rows) for a, b in zip(left, right, strict=True)
    )


def test_clean_then_claim_then_pilot_then_the_winner_on_the_rest():
    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        if name == "clean" and row < 40:
            return "broken", 1.0
        return ("broken", 1.0) if name == "smoothed" and row % 2 else nothing_breaks(name, restart, row, margin)

    turns, _, _ = play(Adaptive(PLAN, per_survivor=100, least_rate=1e-3), 440, answer)
    assert [turn[:3] for turn in turns[:5]] == [
        (0, "clean", 0),
        (1, "pgd-40", 0),
        (2, "margin", 0),
        (3, "smoothed", 0),
        (4, "smoothed", 0),
    ]
    assert turns[0].rows.tolist() == list(range(440)) and turns[1].rows.tolist() == list(range(40, 440))
    first, second, rest = (set(turn.rows.tolist()) for turn in turns[2:5])
    # A twentieth of those that stand is piloted, though no more than `pilot`.
    assert len(first) == 20 and not first & second
    assert first | second | rest == set(range(40, 440)) and not rest & (first | second)
    assert all((np.diff(turn.rows) > 0).all() for turn in turns)
    assert [turn.round for turn in turns] == list(range(len(turns)))


def test_the_pilot_is_drawn_by_the_seed_and_no_larger_than_asked():
    turns = [play(Adaptive(PLAN, per_survivor=20, pilot=7, seed=seed), 400, nothing_breaks)[0] for seed in (0, 0, 1)]
    assert len(turns[0][2].rows) == 7
    assert same(turns[0], turns[1])
    assert not np.array_equal(turns[0][2].rows, turns[2][2].rows)


def test_with_few_images_the_first_opener_takes_all_without_a_pilot():
    turns, _, _ = play(Adaptive(PLAN, per_survivor=100), 12, nothing_breaks)
    assert turns[2].attack == "margin" and len(turns[2].rows) == 12


def test_without_a_claim_the_openers_follow_the_clean_round():
    turns, _, _ = play(Adaptive(PLAN[1:], per_survivor=100), 12, nothing_breaks)
    assert [turn.attack for turn in turns[:2]] == ["clean", "margin"]


def test_every_survivor_meets_each_attack_of_the_book():
    schedule = Adaptive(PLAN, per_survivor=200, least_rate=1 / 1000)
    _, history, _ = play(schedule, 100, nothing_breaks)
    assert all((tries(history, name) >= 1).all() for name in BOOK)
    # Four runs of an attack show that it leads nowhere; without the book that is all it gets.
    assert tries(history, "dud").sum() < 100


def test_an_attack_that_breaks_nothing_is_given_up_and_one_that_breaks_is_kept():
    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        if name == "strong" and seeded(name, restart, row).random() < 0.3:
            return "broken", 1.0
        status, value = nothing_breaks(name, restart, row, margin)
        return status, value + 0.98

    _, history, _ = play(Adaptive(PLAN, per_survivor=300, least_rate=1 / 1000), 200, answer)
    assert (~history.standing).mean() > 0.9
    assert tries(history, "strong").sum() > 5 * tries(history, "dud").sum()


def test_images_near_a_break_get_more_than_those_far_from_it():
    near = np.arange(200) % 2 == 0

    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        return "survived", (-0.1 if near[row] else -8.0) + 0.1 * seeded(name, restart, row).uniform(-1, 0)

    _, history, _ = play(Adaptive(PLAN, per_survivor=150, least_rate=1 / 5000), 200, answer)
    beyond_the_book = history.tries.sum(1) - len(BOOK) - 1
    assert beyond_the_book[near].sum() > 40
    assert beyond_the_book[near].sum() > 5 * beyond_the_book[~near].sum()


def test_attacks_that_want_donors_wait_for_a_break():
    plan = (*PLAN[:5], attack("neighbours", donors=8))
    schedule = Adaptive(plan, per_survivor=300, least_rate=1e-4)
    _, history, _ = play(schedule, 30, nothing_breaks)
    assert not tries(history, "neighbours").any()

    def one_falls(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        return ("broken", 1.0) if (name, row) == ("margin", 3) else nothing_breaks(name, restart, row, margin)

    _, history, _ = play(schedule, 30, one_falls)
    assert tries(history, "neighbours").any()


def test_no_attack_is_run_more_often_than_its_restarts():
    plan = (attack("margin", 2), attack("smoothed", 3), attack("polish", 1))
    turns, history, _ = play(Adaptive(plan), 10, nothing_breaks)
    assert history.tries.tolist() == [[2, 3, 1]] * 10
    seen = [(turn.attack, turn.restart, row) for turn in turns for row in turn.rows.tolist()]
    assert len(seen) == len(set(seen))


def test_a_fixed_schedule_runs_every_restart_on_all_survivors():
    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        return ("broken" if (name, restart) == ("b", row) else "survived"), -1.0

    turns, _, _ = play(Fixed((attack("a", 1), attack("b", 3))), 4, answer)
    assert [(turn.attack, turn.restart) for turn in turns] == [("clean", 0), ("a", 0), ("b", 0), ("b", 1), ("b", 2)]
    assert [turn.rows.tolist() for turn in turns[2:]] == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]


def test_errors_do_no_harm():
    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        if name != "clean" and row % 3 == 0:
            return "error", float("nan")
        return nothing_breaks(name, restart, row, margin)

    turns, history, _ = play(Adaptive(PLAN, per_survivor=200, least_rate=1 / 5000), 60, answer)
    assert np.isfinite(history.margin).all() and history.standing.all()
    sound = np.arange(60) % 3 != 0
    assert all((tries(history, name)[sound] >= 1).all() for name in BOOK)
    assert (history.tries[~sound].sum(1) == 1).all()  # an attack that raised is not tried again
    assert turns[-1].round < 2000


# ----------------------------------------------------------------------------------------------------------- properties


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Adaptive, int, Answer]:
    """Return a schedule with a small budget, a number of images, and what becomes of each run, at random."""
    count = draw(st.integers(1, 30))
    prices = draw(st.lists(st.integers(4, 30), min_size=len(PLAN), max_size=len(PLAN)))
    plan = tuple(replace(attack, cost=lambda r, c=c: c) for attack, c in zip(PLAN, prices, strict=True))
    plan = plan if draw(st.booleans()) else plan[1:]
    first = 1 + sum(planned.cost(0) + CHECK for planned in plan if planned.role == "claim")
    opening = first + CHECK + max(planned.cost(0) for planned in plan if planned.name in ("margin", "smoothed"))
    limits = {
        "most": st.integers(first, first + 80),
        "per_survivor": st.integers(1, 150),
        "per_image": st.integers(opening, opening + 80),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(limits)), min_size=1, max_size=3, unique=True))
    options = {name: draw(limits[name]) for name in chosen}
    least_rate = draw(st.sampled_from([0.0, 1e-4, 1e-2]))
    seed, weak, odd = draw(st.integers(0, 99)), draw(st.floats(0, 1)), draw(st.floats(0, 0.3))
    scale = 10.0 ** draw(st.integers(-3, 3))

    def answer(name: str, restart: int, row: int, margin: float) -> tuple[str, float]:
        draws = np.random.default_rng([seed, restart, row, *name.encode()])
        if name != "clean" and draws.random() < odd:
            return "error", float("nan")
        broken = draws.random() < weak * np.random.default_rng([seed, row]).random() ** 4
        return ("broken", scale * draws.random()) if broken else ("survived", -scale * (row + draws.random()))

    return Adaptive(plan, least_rate=least_rate, seed=seed, **options), count, answer


@settings(deadline=None, max_examples=25)
@given(worlds(), st.integers(0, 99))
def test_limits_hold_and_decisions_follow_from_the_record_alone(world, order):
    schedule, count, answer = world
    prices = {planned.name: planned.cost(0) for planned in schedule.plan}
    claims = {planned.name for planned in schedule.plan if planned.role == "claim"}

    def check(history: History, decided: tuple[Turn, ...]) -> None:
        planned = 0.0
        for turn in decided:
            assert history.standing[turn.rows].all() and (np.diff(turn.rows) > 0).all()
            if turn.attack == "clean":
                return
            assert (tries(history, turn.attack)[turn.rows] == turn.restart).all()
            if turn.attack in claims:
                return
            assert len(turn.rows)
            planned += len(turn.rows) * (prices[turn.attack] + CHECK)
        standing = history.standing
        assert history.searched[standing].sum() + planned <= schedule.per_survivor * standing.sum()

    turns, history, told = play(schedule, count, answer, check=check)
    assert history.spent == history.cost.sum() <= schedule.most * count
    assert (history.cost <= schedule.per_image).all()
    # A resumed audit hears of the rounds as recorded, without having decided on them, and in an order of its own.
    again, random = History(count, schedule.plan), np.random.default_rng(order)
    while decided := schedule.next_turns(again):
        assert same(decided, turns[again.rounds : again.rounds + len(decided)])
        for turn in decided:
            events = told[turn.round]
            shuffled = random.permutation(len(events))
            again.add(turn.rows[shuffled], [events[at] for at in shuffled])
    assert again.rounds == len(turns)


@pytest.mark.parametrize("count", [1, 3])
def test_images_that_all_fall_at_once_end_the_audit(count):
    turns, _, _ = play(Adaptive(PLAN), count, lambda *run: ("broken", 1.0))
    assert {turn.attack for turn in turns} <= {"clean", "pgd-40"}
