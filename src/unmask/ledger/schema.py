"""What a run's record holds: the spec, one event per (example, attack, restart), findings and the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1
MAX_ROUNDS = 1_000_000

EventStatus = Literal["broken", "survived", "error"]
Role = Literal["clean", "claim", "search"]
FindingStatus = Literal["ok", "warn", "fail", "not_applicable"]

STATUSES = ("broken", "survived", "error", "not_run")
CLEAN = "clean"
THREAT_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def plain(value: object) -> object:
    """Return `value` as JSON knows it: numpy scalars and arrays unpacked, tuples as lists, non-finite floats as None.

    Raises ValueError for anything that has no such form, so that a record reads back exactly as it was given.
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise ValueError(f"a {type(value).__name__} cannot be written to a ledger; give numbers, text, lists or dicts")


PlainDict = Annotated[dict[str, Any], BeforeValidator(plain)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelEntry(_Entry):
    """The audited model: where it came from, the hash of its weights and its number of parameters (if it has any)."""

    source: str
    fingerprint: str
    parameters: Count | None = None


class DataEntry(_Entry):
    """The audited images: data set, split, number, hash, class names and shape (C, H, W)."""

    name: str
    split: str
    n: Annotated[int, Field(gt=0, lt=2**63)]
    fingerprint: str
    classes: list[str]
    input_shape: list[Annotated[int, Field(gt=0)]]


class ThreatEntry(_Entry):
    """The threat model; `eps` stays the exact text ("8/255"), `low` and `high` bound the pixels."""

    norm: Literal["linf", "l2", "l1"]
    eps: str
    low: FiniteFloat = 0.0
    high: FiniteFloat = 1.0

    def __str__(self) -> str:
        return f"{THREAT_NAMES[self.norm]}({self.eps})"


class PlanEntry(_Entry):
    """One attack of the plan and how often it starts anew."""

    attack: str
    restarts: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = 1
    role: Role
    settings: PlainDict = {}
    description: str = ""


class ScheduleEntry(_Entry):
    """How the plan's attacks are used.

    "fixed": one after the other, each restart on all survivors. "adaptive": whatever the record suggests at the start
    of each round, on the examples where it promises most; then a plan entry's restarts are the most an example gets.
    """

    kind: Literal["fixed", "adaptive"] = "fixed"
    settings: PlainDict = {}


class Round(NamedTuple):
    """One pass over survivors: restart `restart` of plan entry `entry`; -1 is a clean round that no entry names."""

    round: int
    entry: int
    attack: str
    restart: int
    role: Role


class Spec(_Entry):
    """Everything that decides a run's outcome, written before the first event.

    An image counts as right while its label is among the `top` likeliest classes.
    """

    kind: Literal["audit"] = "audit"
    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    model: ModelEntry
    data: DataEntry
    threat: ThreatEntry
    plan: list[PlanEntry]
    schedule: ScheduleEntry = ScheduleEntry()
    claim: str | None = None
    top: Annotated[int, Field(ge=1)] = 1
    budget: str
    seed: int
    batch_size: Annotated[int, Field(ge=1)]
    version: str
    packages: dict[str, str] = {}
    hardware: PlainDict = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for position, entry in enumerate(self.plan):
            if (entry.role == CLEAN) != (entry.attack == CLEAN):
                raise ValueError(f"plan[{position}]: the role 'clean' belongs to the attack 'clean' alone")
            if entry.role == CLEAN and (position > 0 or entry.restarts > 1):
                raise ValueError(f"plan[{position}]: the clean round comes first and runs once")
        if sum(entry.restarts for entry in self.plan) > MAX_ROUNDS:
            raise ValueError(f"the plan holds more than {MAX_ROUNDS} rounds")
        if self.claim is not None and not any(e.role == "claim" and e.attack == self.claim for e in self.plan):
            raise ValueError(f"claim '{self.claim}' names no plan entry with the role 'claim'")
        return self

    @property
    def terms(self) -> str:
        """On which terms an image counts as right: "Linf(8/255)", or "Linf(8/255), top-5" for more classes than one."""
        return str(self.threat) if self.top == 1 else f"{self.threat}, top-{self.top}"

    def rounds(self) -> list[Round]:
        """Return the rounds of a fixed schedule in order: 0 is the clean one, then each entry once per restart."""
        found = [Round(0, -1 if not self.plan or self.plan[0].role != CLEAN else 0, CLEAN, 0, "clean")]
        for position, entry in enumerate(self.plan):
            if entry.role != CLEAN:
                for restart in range(entry.restarts):
                    found.append(Round(len(found), position, entry.attack, restart, entry.role))
        return found

    def entry_of(self, attack: str) -> int:
        """Return the position of an attack in the plan, -1 if it is not in it."""
        return next((place for place, entry in enumerate(self.plan) if entry.attack == attack), -1)


class ExampleEvent(NamedTuple):
    """What one round did to one example.

    `margin`: the adversarial margin at the kept iterate; `loss`: its cross-entropy; both and `distance` (in the norm of
    the threat, pixel units) are NaN or None where the model gave no finite number. `predicted` is -1 where it gave no
    class. `forwards`, `backwards`: passes spent on this example. `step`: iterations until the break, None where there
    was none or the attack counts no steps. `seconds`: the example's share of its batch's wall time, so that sums over
    events are wall time.
    """

    round: int
    attack: str
    restart: int
    id: int
    status: EventStatus
    margin: float
    loss: float | None
    predicted: int
    distance: float
    forwards: int
    backwards: int
    step: int | None
    seconds: float


class FindingEntry(_Entry):
    """One diagnostic check: what it saw, the figures behind it, what to do next and what it cost."""

    check: str
    status: FindingStatus
    summary: str
    evidence: PlainDict = {}
    next_step: str = ""
    forwards: Count = 0
    backwards: Count = 0


class VerdictEntry(_Entry):
    """The verdict's label, the reasons printed with it, and what would change it."""

    label: str
    reasons: list[str]
    change: list[str] = []


class ResultEntry(_Entry):
    """The figures of a finished run; `interval` is the 95% Wilson interval of `robust_accuracy`.

    `headline` is None where some example ended in an error, `claimed_accuracy` where the plan holds no claim.
    """

    headline: str | None
    verdict: VerdictEntry
    clean_accuracy: Share
    claimed_accuracy: Share | None
    robust_accuracy: Share
    interval: tuple[Share, Share]
    counts: dict[str, Count]
    forwards: Count
    backwards: Count
    seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
