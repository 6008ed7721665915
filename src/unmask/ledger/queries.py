"""What a recorded run says: accuracies, statuses, tables, and the sentence at the head of its report.

Every accuracy is one minus the share of all N examples that are broken: while a run is unfinished, or where an example
ended in an error, it is an upper bound. Everything here is a pure function of a `Run`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from unmask.errors import LedgerError, unknown
from unmask.ledger.run import Run
from unmask.ledger.schema import CLEAN, STATUSES, PlanEntry, Role, Round
from unmask.ledger.tensors import Ids

Status = Literal["broken", "survived", "error", "not_run"]
Accuracies = npt.NDArray[np.float64]

_NEVER = np.iinfo(np.int64).max


class AttackRow(NamedTuple):
    """One attack of the plan: what it tried and broke on its own, and the accuracy once it was through.

    `attempted`: examples with an event of it; `errors`: those of them with an error event; `broken`: by it;
    `accuracy_after`: share of all N examples that neither it nor any attack before it broke (the cumulative worst
    case); `forwards`, `backwards`: example passes; `seconds`: wall time.
    """

    attack: str
    role: Role
    restarts: int
    attempted: int
    errors: int
    broken: int
    accuracy_after: float
    forwards: int
    backwards: int
    seconds: float


class Cost(NamedTuple):
    """What the attacks of a run spent: example passes and wall time in seconds (diagnostics not included)."""

    forwards: int
    backwards: int
    seconds: float

    @property
    def evaluations(self) -> int:
        """Forward plus backward passes."""
        return self.forwards + self.backwards


def _places(run: Run, ids: Ids) -> Ids:
    order = np.argsort(run.ids)
    return order[np.searchsorted(run.ids, ids, sorter=order)]


def _break_rounds(run: Run) -> Ids:
    """Return the round (N,) that broke each example, `_NEVER` where none did."""
    broken = run.events["status"] == "broken"
    fell = np.full(len(run.ids), _NEVER)
    fell[_places(run, run.events["id"][broken])] = run.events["round"][broken]
    return fell


def _accuracy_after(run: Run, number: int) -> float:
    return float((_break_rounds(run) > number).mean())


def _rounds_of(run: Run, attack: str) -> list[Round]:
    rounds = [entry for entry in run.rounds if entry.attack == attack]
    if not rounds:
        raise LedgerError(unknown("attack in this run", attack, {entry.attack for entry in run.rounds}))
    return rounds


# ---------------------------------------------------------------------------------------------------------- per example


def statuses(run: Run) -> npt.NDArray[np.str_]:
    """Return the status (N,) of each example of `run.ids`: broken, error, not_run or survived, the first that holds.

    `not_run`: some round of a fixed plan has no event of an example that had survived all rounds before it, or an
    adaptive schedule has not come to its end.
    """
    fell = _break_rounds(run)
    errors = np.zeros(len(run.ids), dtype=bool)
    errors[_places(run, run.events["id"][run.events["status"] == "error"])] = True
    missing = _unfinished(run)
    return np.select([fell < _NEVER, errors, missing], ["broken", "error", "not_run"], default="survived")


def _unfinished(run: Run) -> npt.NDArray[np.bool_]:
    if run.spec.schedule.kind == "adaptive":
        return np.full(len(run.ids), not run.complete)
    # An example that never broke needs one event per round, and no round holds two of the same example.
    done = np.bincount(_places(run, run.events["id"]), minlength=len(run.ids))
    return done < len(run.rounds)


def status_by_id(run: Run) -> dict[int, Status]:
    """Return the status of each example by its id."""
    return cast(dict[int, Status], dict(zip(run.ids.tolist(), statuses(run).tolist(), strict=True)))


def counts(run: Run) -> dict[Status, int]:
    """Return how many examples have each of the four statuses."""
    found = statuses(run)
    return cast(dict[Status, int], {status: int((found == status).sum()) for status in STATUSES})


def survivors_after(run: Run, round: int) -> Ids:
    """Return the ids (M,) that no event of the rounds up to and including `round` broke; -1 returns all ids."""
    return run.ids[_break_rounds(run) > round]


def broken_by(run: Run) -> npt.NDArray[np.str_]:
    """Return the attack (N,) that broke each example ("clean" for a misclassified one), "" where none did."""
    fell = _break_rounds(run)
    names = np.full(max(entry.round for entry in run.rounds) + 1, "", dtype=object)
    for entry in run.rounds:
        names[entry.round] = entry.attack
    return np.where(fell < _NEVER, names[np.where(fell < _NEVER, fell, 0)], "").astype(np.str_)


# ----------------------------------------------------------------------------------------------------------- accuracies


def clean_accuracy(run: Run) -> float:
    """Return the share of the N examples that the model classifies rightly unattacked, in [0, 1]."""
    return _accuracy_after(run, 0)


def claimed_accuracy(run: Run) -> float | None:
    """Return the clean accuracy less the breaks of the claimed attack, in [0, 1]; None without a claim."""
    if run.spec.claim is None:
        return None
    claim = {entry.round for entry in run.rounds if entry.role == "claim" and entry.attack == run.spec.claim}
    return float((~np.isin(_break_rounds(run), [0, *claim])).mean())


def robust_accuracy(run: Run) -> float:
    """Return the share of the N examples that nothing broke (the per-example worst case), in [0, 1]."""
    return _accuracy_after(run, _NEVER - 1)


def wilson_interval(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a share of `k` in `n` (Wilson 1927), within [0, 1]; `z` = 1.96 means 95%.

    Raises LedgerError unless 0 <= k <= n and n > 0.
    """
    if not 0 <= k <= n or n == 0:
        raise LedgerError(f"An interval needs 0 <= k <= n and n > 0; k={k}, n={n} were given.")
    share, spread = k / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if k == 0 else centre - half
    high = 1.0 if k == n else centre + half
    return max(low, 0.0), min(high, 1.0)


def accuracy_by_restart(run: Run, attack: str) -> Accuracies:
    """Return the accuracy (R,) after each restart of `attack`, the worst case over all rounds up to it.

    Raises LedgerError for an attack that is not in the plan.
    """
    return np.array([_accuracy_after(run, entry.round) for entry in _rounds_of(run, attack)])


def accuracy_by_step(run: Run, attack: str) -> Accuracies:
    """Return the accuracy (K + 1,) had each restart of `attack` been stopped after k = 0 ... K steps.

    K is the setting `steps` of the attack, or the last step that broke an example. Breaks of earlier attacks count at
    every k, breaks without a step count at K alone. Later restarts saw only what the full attack left, so that with
    several of them the figures before K are upper bounds. Raises LedgerError for an attack that is not in the plan.
    """
    rounds = _rounds_of(run, attack)
    earlier = _break_rounds(run) < rounds[0].round
    mine = np.isin(run.events["round"], [entry.round for entry in rounds]) & (run.events["status"] == "broken")
    steps = run.events["step"][mine]
    last = max(_planned_steps(run, rounds), int(steps.max(initial=0)))
    per_step = np.bincount(np.where(steps < 0, last, steps), minlength=last + 1)
    standing = len(run.ids) - int(earlier.sum()) - np.cumsum(per_step)
    return np.asarray(standing / len(run.ids), dtype=np.float64)


def _planned_steps(run: Run, rounds: list[Round]) -> int:
    settings: dict[str, Any] = run.spec.plan[rounds[0].entry].settings if rounds[0].entry >= 0 else {}
    steps = settings.get("steps", 0)
    return steps if isinstance(steps, int) and 0 <= steps <= 1_000_000 else 0


# --------------------------------------------------------------------------------------------------------------- tables


def cost(run: Run) -> Cost:
    """Return what all attacks of the run spent, the clean round included."""
    return _cost(run, np.ones(len(run.events["id"]), dtype=bool))


def _cost(run: Run, chosen: npt.NDArray[np.bool_]) -> Cost:
    events = run.events
    forwards, backwards = int(events["forwards"][chosen].sum()), int(events["backwards"][chosen].sum())
    return Cost(forwards, backwards, float(events["seconds"][chosen].sum()))


def attack_table(run: Run) -> list[AttackRow]:
    """Return one row per attack in the plan's order, the clean round first.

    `accuracy_after` of a row counts the breaks of its own attack and of those above it.
    """
    plan = run.spec.plan
    if not plan or plan[0].role != "clean":
        plan = [PlanEntry(attack="clean", role="clean"), *plan]
    fallen_to, standing, rows = broken_by(run), len(run.ids), []
    for entry in plan:
        broken = int((fallen_to == entry.attack).sum())
        standing -= broken
        rows.append(_row(run, entry, broken, standing / len(run.ids)))
    return rows


def _row(run: Run, entry: PlanEntry, broken: int, accuracy_after: float) -> AttackRow:
    mine = run.events["attack"] == entry.attack
    ids, spent = run.events["id"], _cost(run, mine)
    restarts = entry.restarts if run.spec.schedule.kind == "fixed" else len(np.unique(run.events["restart"][mine]))
    return AttackRow(
        attack=entry.attack,
        role=entry.role,
        restarts=restarts,
        attempted=len(np.unique(ids[mine])),
        errors=len(np.unique(ids[mine & (run.events["status"] == "error")])),
        broken=broken,
        accuracy_after=accuracy_after,
        forwards=spent.forwards,
        backwards=spent.backwards,
        seconds=spent.seconds,
    )


# ------------------------------------------------------------------------------------------------------------- headline


def headline(run: Run) -> str:
    """Return the result of a finished run in one sentence; evaluations are forward plus backward passes.

    It begins with "Top-5 accuracy:" where the label need but be among the 5 likeliest classes.

    Raises LedgerError while an example has the status error or not_run, saying how many and what to do.
    """
    _refuse_incomplete(run)
    n = len(run.ids)
    survived = counts(run)["survived"]
    low, high = wilson_interval(survived, n)
    within = f"[{100 * low:.1f}, {100 * high:.1f}]"
    if all(entry.role == CLEAN for entry in run.spec.plan):
        return _of_top(run, f"Clean {clean_accuracy(run):.1%} {within} on {n:,} images: no attack was run")
    claimed = claimed_accuracy(run)
    said = f"Clean {clean_accuracy(run):.1%}" if claimed is None else f"Claimed {claimed:.1%} ({run.spec.claim})"
    measured = f"measured at most {survived / n:.1%} {within} under {run.spec.threat}"
    spent = f"{cost(run).evaluations / n:,.0f} evaluations per image"
    return _of_top(run, f"{said}, {measured}: {_cause(run)}, at {spent}, on {n:,} images")


def _of_top(run: Run, sentence: str) -> str:
    return sentence if run.spec.top == 1 else f"Top-{run.spec.top} accuracy: {sentence[0].lower()}{sentence[1:]}"


def _refuse_incomplete(run: Run) -> None:
    found = counts(run)
    parts = []
    if found["not_run"]:
        parts.append(
            f"{found['not_run']:,} of {len(run.ids):,} examples have not been through the whole plan: run the same "
            "command again to resume"
        )
    if found["error"]:
        parts.append(
            f"{found['error']:,} of {len(run.ids):,} examples ended in an error: mend the model (or its outputs) and "
            "audit it again in a new --run-dir"
        )
    if parts:
        raise LedgerError(f"There is no headline yet. {'; '.join(parts)}.")


def _cause(run: Run) -> str:
    rows = attack_table(run)
    beyond = "" if run.spec.claim is None else "beyond the claim "
    for role, words in (("search", f"broken {beyond}mostly by"), ("claim", "broken by")):
        most = max((row for row in rows if row.role == role), key=lambda row: row.broken, default=None)
        if most is not None and most.broken:
            return f"{words} {most.attack}"
    return "no attack broke an image"
