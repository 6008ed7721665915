"""Which attack is run next, on which images: decided at the start of each round from what is recorded so far.

A schedule is a pure function of the record of earlier rounds. Batch size, resume and the number of workers therefore
change no decision. `docs/attack-schedule.md` says what the adaptive schedule does and what each of its parts buys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from unmask.audit.plan import PlannedAttack
from unmask.ledger import ExampleEvent, ScheduleEntry
from unmask.streams import derive_seed

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CLEAN = "clean"


class Turn(NamedTuple):
    """A round to run: its number, attack and restart, and the images (positions, ascending)."""

    round: int
    attack: str
    restart: int
    rows: Rows


class Trials(NamedTuple):
    """Search runs as columns: image, attack (its place in the plan), how often it had failed there in a row, margins
    before and after, break and cost."""

    row: Rows
    move: Rows
    failures: Rows
    before: Floats
    after: Floats
    broken: npt.NDArray[np.bool_]
    cost: Floats


class History:
    """What whole rounds have shown: which images stand, their best margins, and every run of a search attack."""

    def __init__(self, count: int, plan: Sequence[PlannedAttack]) -> None:
        self.moves = [attack.name for attack in plan]
        self._plan = {attack.name: attack for attack in plan}
        self.rounds = 0
        self.standing = np.ones(count, dtype=bool)
        self.failed = np.zeros(count, dtype=bool)
        self.margin = np.full(count, -np.inf)
        self.spent = 0
        self.cost = np.zeros(count)
        self.searched = np.zeros(count)
        self.tries = np.zeros((count, len(plan)), dtype=np.int64)
        self.failures = np.zeros((count, len(plan)), dtype=np.int64)
        self._trials: list[Trials] = []

    def add(self, rows: Rows, events: Sequence[ExampleEvent]) -> None:
        """Take in one whole round: the events of the images `rows`, in any order.

        A run has failed on an image where it neither broke it nor came clearly nearer than all runs before.
        """
        self.rounds += 1
        if not events:
            return
        # Sums of floats, and with them close decisions, would otherwise hang on who was done first.
        order = np.argsort(rows)
        rows, events = rows[order], [events[at] for at in order]
        broken = np.array([event.status == "broken" for event in events])
        margins = np.nan_to_num(np.array([event.margin for event in events], dtype=float), nan=-np.inf)
        attack = events[0].attack
        cost = np.array([self._cost(event) for event in events], dtype=float)
        self.spent += int(cost.sum())
        self.cost[rows] += cost
        if attack != CLEAN:
            move = self.moves.index(attack)
            self.tries[rows, move] += 1
            moves = np.full(len(rows), move)
            before, failures = self.margin[rows].copy(), self.failures[rows, move].copy()
            if self._plan[attack].role == "search":
                self.searched[rows] += cost
                self._trials.append(Trials(rows, moves, failures, before, margins, broken, cost))
            moved = margins > before + PROGRESS * np.abs(before)
            self.failures[rows, move] = np.where(moved, 0, failures + 1)
        self.margin[rows] = np.maximum(self.margin[rows], margins)
        self.standing[rows[broken]] = False
        self.failed[rows] |= np.array([event.status == "error" for event in events])

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """The images that stand and on which no attack ended in an error."""
        return self.standing & ~self.failed

    def _cost(self, event: ExampleEvent) -> int:
        """Return an event's evaluations, of a break no less than they were and the same in every batch.

        A batch makes the backward pass of the step on which an image breaks only if another image of it still stands.
        """
        attack = self._plan.get(event.attack)
        if event.status != "broken" or attack is None or not attack.gradients:
            return event.forwards + event.backwards
        return min(2 * event.forwards, attack.cost(event.restart) + CHECK)

    def trials(self) -> Trials:
        """Return all runs of attacks, in the order in which they were made."""
        if not self._trials:
            none = np.zeros(0)
            none_int = none.astype(np.int64)
            return Trials(none_int, none_int, none_int, none, none, none.astype(bool), none)
        return Trials(*(np.concatenate(column) for column in zip(*self._trials, strict=True)))


class Schedule(Protocol):
    """Decides which rounds come next; none ends the audit."""

    def describe(self) -> ScheduleEntry:
        """Return what the record says of the schedule."""

    def next_turns(self, history: History) -> tuple[Turn, ...]:
        """Return the rounds that follow those of `history`: of different images, so that they may run side by side."""


@dataclass(frozen=True)
class Fixed:
    """Every attack of the plan in turn, each restart on all survivors."""

    plan: tuple[PlannedAttack, ...]

    def describe(self) -> ScheduleEntry:
        """Return what the record says of the schedule."""
        return ScheduleEntry(kind="fixed")

    def next_turns(self, history: History) -> tuple[Turn, ...]:
        """Return the next restart of the plan."""
        turns = [(CLEAN, 0), *((attack.name, restart) for attack in self.plan for restart in range(attack.restarts))]
        if history.rounds >= len(turns):
            return ()
        return (Turn(history.rounds, *turns[history.rounds], np.flatnonzero(history.standing)),)


@dataclass(frozen=True)
class Adaptive:
    """Run, on each image, what has paid on images like it; stop where nothing promises to.

    `most` evaluations per image on average, claim included; `per_image`: on any single one; `per_survivor`: by search
    attacks, on average per image that stands, beside what the fallen ones took, and thrice that on any single one.
    `least_rate`: breaks per evaluation below which a run is not worth making. `openers` share out the pilot, whose
    winner opens on the rest; every survivor then meets each attack of `book` once before the end.
    """

    plan: tuple[PlannedAttack, ...]
    most: float = np.inf
    per_image: float = np.inf
    per_survivor: float = np.inf
    least_rate: float = 0.0
    openers: tuple[str, ...] = ("margin", "smoothed")
    book: tuple[str, ...] = ("margin", "smoothed", "polish", "scale-invariant")
    pilot: int = 24
    seed: int = 0

    def describe(self) -> ScheduleEntry:
        """Return what the record says of the schedule."""
        return ScheduleEntry(
            kind="adaptive",
            settings={
                "most_evaluations": self.most,
                "most_evaluations_per_image": self.per_image,
                "evaluations_per_survivor": self.per_survivor,
                "least_rate": self.least_rate,
                "openers": list(self.openers),
                "book": list(self.book),
                "pilot": self.pilot,
            },
        )

    def next_turns(self, history: History) -> tuple[Turn, ...]:
        """Return the rounds that promise the most breaks per evaluation, as the module's page explains."""
        if history.rounds == 0:
            return (Turn(0, CLEAN, 0, np.flatnonzero(history.standing)),)
        for number, attack in enumerate(self.plan):
            if attack.role == "claim" and not history.tries[:, number].any() and history.rounds == number + 1:
                return (Turn(history.rounds, attack.name, 0, np.flatnonzero(history.standing)),)
        opening = self._opening(history)
        return self._affordable(history, self._best(history) if opening is None else [opening])

    def _opening(self, history: History) -> Choice | None:
        """Return the next opener's share of the pilot, then the winner for all images that nothing was run on."""
        fresh = np.flatnonzero(history.open & (history.tries[:, self._searches()].sum(1) == 0))
        if not len(fresh):
            return None
        openers = [history.moves.index(name) for name in self.openers if name in history.moves]
        waiting = [move for move in openers if not history.tries[:, move].any()]
        share = min(self.pilot, len(fresh) // 20)
        if waiting and share:
            order = np.random.default_rng(derive_seed(self.seed, "pilot")).permutation(len(history.standing))
            rows = np.sort(order[np.isin(order, fresh)][:share])
            return Choice(waiting[0], 0, rows, history.margin[rows])
        winner = min(openers, key=lambda move: self._opening_cost(history, move))
        return Choice(winner, 0, fresh, history.margin[fresh])

    def _opening_cost(self, history: History, move: int) -> float:
        """Return what an image costs that this move opens on: the run, and the book for those that it leaves."""
        trials = history.trials()
        mine = (trials.move == move) & ~seen_before(trials.row)
        if not mine.any():
            return float(self.plan[move].cost(0))
        book = sum(attack.cost(0) for attack in self.plan if attack.name in self.book)
        return float(trials.cost[mine].mean() + (~trials.broken[mine]).mean() * book)

    def _best(self, history: History) -> list[Choice]:
        """Return the move that promises most on some image, with all images on which it is the best, as far as known,
        and then those that promise at least `BREADTH` times as much on others: these can run side by side.

        Of images of one kind no more are taken than twice those that the move was tried on before, and a few: the rest
        wait for what these show.
        """
        rows = np.flatnonzero(history.open)
        if not len(rows):
            return []
        promise = self._promises(history, rows)
        best = promise.rate.argmax(1)
        rate, restart = promise.rate[np.arange(len(rows)), best], history.tries[rows, best]
        room = (FIRST_FEW + 2 * promise.seen).astype(np.int64)
        choices, least = [], max(BREADTH * rate.max(), np.finfo(float).tiny)
        while rate.max() >= least:
            leader = int(rate.argmax())
            move = int(best[leader])
            mine = (rate > 0) & (best == move) & (restart == restart[leader])
            chosen = mine & promise.due[:, move]
            for depth in np.unique(promise.depth[mine]):
                kind = np.flatnonzero(mine & (promise.depth == depth) & ~chosen)[: room[depth, move]]
                chosen[kind] = True
                room[depth, move] -= len(kind)
            if chosen.any():
                choices.append(Choice(move, int(restart[leader]), rows[chosen], rate[chosen]))
            rate = np.where(mine, 0.0, rate)
        return choices

    def _affordable(self, history: History, choices: Sequence[Choice]) -> tuple[Turn, ...]:
        """Return the rounds that can be paid, of the last one the images that promise most."""
        left, turns = self._left(history), list[Turn]()
        for move, restart, rows, rates in choices:
            price = self.plan[move].cost(restart) + CHECK
            count = int(min(left / price, len(rows)))
            if count < 1:
                break
            if count < len(rows):
                rows = np.sort(rows[np.argsort(-rates, kind="stable")[:count]])
            turns.append(Turn(history.rounds + len(turns), self.plan[move].name, restart, rows))
            left -= count * price
        return tuple(turns)

    def _left(self, history: History) -> float:
        """Return how many evaluations may still be spent."""
        on_survivors = float(history.searched[history.standing].sum())
        for_survivors = self.per_survivor * int(history.standing.sum()) - on_survivors
        return min(for_survivors, self.most * len(history.standing) - history.spent)

    def _searches(self) -> list[int]:
        return [number for number, attack in enumerate(self.plan) if attack.role == "search"]

    def _promises(self, history: History, rows: Rows) -> Promises:
        trials = history.trials()
        scale = spreads(trials, len(history.standing))
        depth = depth_of(history.margin[rows], scale[rows])
        depth_then = depth_of(trials.before, scale[trials.row])
        nearest = np.argsort(-history.margin[rows] / np.maximum(scale[rows], 1e-300), kind="stable")
        failures_then = failures_of(trials.failures)
        opening = ~seen_before(trials.row)
        rates, dues = np.zeros((len(rows), len(self.plan))), np.zeros((len(rows), len(self.plan)), dtype=bool)
        seen = np.zeros((DEPTHS, len(self.plan)))
        for move in self._searches():
            attack, tried, mine = self.plan[move], history.tries[rows, move], trials.move == move
            first, later = mine & opening, mine & ~opening
            opened = (0.25 + trials.broken[first].sum()) / (1 + first.sum()) if first.any() else 0.0
            prior = np.maximum(PRIOR, 0.25 * opened * CAUTION)
            expected = prior[depth_then[later], failures_then[later]].sum()
            prior *= (1 + trials.broken[later].sum()) / (1 + expected)
            place = depth_then[later] * FAILURES + failures_then[later]
            runs = np.bincount(place, minlength=DEPTHS * FAILURES).reshape(DEPTHS, FAILURES)
            broke = shared(np.bincount(place, trials.broken[later], DEPTHS * FAILURES))
            cost = shared(np.bincount(place, trials.cost[later], DEPTHS * FAILURES))
            rate = (PRIOR_RUNS * prior + broke) / (PRIOR_RUNS * attack.cost(0) + cost)
            here = rate[depth, failures_of(history.failures[rows, move])]
            due = (tried == 0) & (attack.name in self.book)
            floor = max(self.least_rate, LEAST_RATE)
            here = np.where(due, np.maximum(here, 2 * floor), here)
            few = nearest[: max(EXPLORED - int(mine.sum()), 0)]
            explored = (tried == 0) & np.isin(np.arange(len(rows)), few)
            here, due = np.where(explored, np.maximum(here, 5 * floor), here), due | explored
            allowed = (tried < attack.restarts) & (here >= self.least_rate)
            price = np.array([attack.cost(int(restart)) for restart in tried]) + CHECK
            allowed &= history.cost[rows] + price <= self.per_image
            allowed &= history.searched[rows] + price <= HOG * self.per_survivor
            if attack.donors and not trials.broken.any():
                allowed &= False
            rates[:, move], dues[:, move], seen[:, move] = np.where(allowed, here, 0.0), due, runs.sum(1)
        return Promises(rates, dues, depth, seen)


class Choice(NamedTuple):
    """A move (its place in the plan) and restart for the images `rows`, and what a run promises on each."""

    move: int
    restart: int
    rows: Rows
    rates: Floats


class Promises(NamedTuple):
    """What a further run promises: breaks per evaluation (S, moves), 0 where it is not worth it; whether the book asks
    for it; the depth (S,) of each image; how many runs (depths, moves) have been seen at each depth."""

    rate: Floats
    due: npt.NDArray[np.bool_]
    depth: Rows
    seen: Floats


CHECK = 1  # a break is predicted again
LEAST_RATE = 1 / 20_000
FIRST_FEW = 6
BREADTH = 0.49  # not a half: rates of moves of twice the cost would lie on the edge, and rounding decide
EXPLORED = 4
PROGRESS = 0.05
HOG = 3.0
DEPTHS = 14
FAILURES = 8
PRIOR_RUNS = 2.0
_LEVELS = np.geomspace(0.1, 60, DEPTHS)
_COUNTS = np.array([0, 1, 2, 4, 8, 16, 32, 64])
CAUTION = 1 / (1 + _COUNTS / 2)[None, :]
PRIOR = 0.25 * np.exp(-_LEVELS)[:, None] * CAUTION


def _kernel(size: int, share: float) -> Floats:
    return np.asarray(share ** np.abs(np.arange(size)[:, None] - np.arange(size)[None, :]), dtype=float)


def shared(counts: npt.NDArray[Any]) -> Floats:
    """Return counts per cell (depth, failures), each with shares of those of the cells around it."""
    return np.asarray(_kernel(DEPTHS, 0.4) @ counts.reshape(DEPTHS, FAILURES) @ _kernel(FAILURES, 0.2), dtype=float)


def depth_of(margins: Floats, scale: Floats) -> Rows:
    """Return the class of an image: by how many spreads it lies from breaking."""
    depth = np.maximum(-margins, 0) / np.maximum(scale, 1e-300)
    return np.searchsorted(np.sqrt(_LEVELS[:-1] * _LEVELS[1:]), depth)


def failures_of(tries: Rows) -> Rows:
    """Return the class of a number of earlier runs."""
    return np.searchsorted(_COUNTS, tries, side="right") - 1


def seen_before(rows: Rows) -> npt.NDArray[np.bool_]:
    """Say per run whether its image had been through another run before it."""
    seen = np.ones(len(rows), dtype=bool)
    _, first = np.unique(rows, return_index=True)
    seen[first] = False
    return seen


def spreads(trials: Trials, count: int) -> Floats:
    """Return per image how much the final margins of its runs differ (N,): its own spread, drawn to that of all."""
    survived = ~trials.broken & np.isfinite(trials.after)
    row, after = trials.row[survived], trials.after[survived]
    runs = np.bincount(row, minlength=count).astype(float)
    mean = np.bincount(row, after, count) / np.maximum(runs, 1)
    squares = np.bincount(row, (after - mean[row]) ** 2, count)
    own = squares / np.maximum(runs - 1, 1)
    several = runs >= 2
    pooled = float(np.median(own[several])) if several.any() else 0.0
    return np.asarray(np.sqrt((2 * pooled + squares) / (2 + np.maximum(runs - 1, 0))))
