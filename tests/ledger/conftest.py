"""A small run with known answers: ten examples, a clean round, a claim with two restarts, one more attack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from unmask.ledger import DataEntry, ExampleEvent, Ledger, ModelEntry, PlanEntry, ResultEntry, Spec, ThreatEntry
from unmask.ledger import VerdictEntry as Verdict
from unmask.ledger.queries import survivors_after

SHAPE = (1, 2, 3)
PLAN = (
    PlanEntry(attack="clean", role="clean"),
    PlanEntry(attack="pgd-40", restarts=2, role="claim", settings={"steps": 40, "step_size": 0.01}),
    PlanEntry(attack="apgd", role="search", settings={"losses": ["dlr", "margin"]}, description="adaptive steps"),
)
# example -> (round that breaks it, step of the break)
BREAKS = {
    100: (0, None),
    101: (1, 3),
    102: (1, 40),
    103: (2, 3),
    104: (3, None),
    105: (3, None),
    106: (3, None),
    107: (3, None),
}
PASSES = {"clean": (1, 0), "pgd-40": (41, 40), "apgd": (10, 9)}


@dataclass
class Scenario:
    """A run that can be played into a ledger in batches of any size, from wherever the ledger stands."""

    ids: np.ndarray = field(default_factory=lambda: np.arange(100, 110))
    breaks: Mapping[int, tuple[int, int | None]] = field(default_factory=lambda: dict(BREAKS))
    plan: Sequence[PlanEntry] = PLAN

    @property
    def labels(self) -> np.ndarray:
        return self.ids % 3

    @property
    def images(self) -> np.ndarray:
        n = len(self.ids)
        return (np.arange(n * 6).reshape(n, *SHAPE) % 256 / 255).astype(np.float32)

    def spec(self, **changes: Any) -> Spec:
        values = {
            "name": "lenet",
            "created": "2020-01-02T03:04:05Z",
            "model": ModelEntry(source="zoo", fingerprint="weights-a", parameters=7),
            "data": DataEntry(
                name="mnist",
                split="test",
                n=len(self.ids),
                fingerprint="data-a",
                classes=["0", "1", "2"],
                input_shape=list(SHAPE),
            ),
            "threat": ThreatEntry(norm="linf", eps="0.3"),
            "plan": list(self.plan),
            "claim": "pgd-40",
            "budget": "standard",
            "seed": 0,
            "batch_size": 4,
            "version": "0.1.0",
        }
        return Spec(**(values | changes))

    def open(self, run_dir: Any, writer: int = 0, **changes: Any) -> Ledger:
        spec = self.spec(**changes)
        return Ledger.open(run_dir, spec, ids=self.ids, labels=self.labels, images=self.images, writer=writer)

    def event(self, round: int, attack: str, restart: int, example: int) -> ExampleEvent:
        fell, step = self.breaks.get(example, (None, None))
        forwards, backwards = PASSES[attack]
        broken = fell == round
        return ExampleEvent(
            round=round,
            attack=attack,
            restart=restart,
            id=example,
            status="broken" if broken else "survived",
            margin=0.1 * round if broken else -0.3,
            loss=1.5 + 0.1 * round,
            predicted=2 if broken else 1,
            distance=0.3,
            forwards=forwards,
            backwards=backwards,
            step=step if broken else None,
            seconds=0.25,
        )

    def image(self, round: int, example: int) -> np.ndarray:
        return np.full(SHAPE, (example * 7 + round) / 4096, dtype=np.float32)

    def commit(self, ledger: Ledger, round: int, ids: Sequence[int]) -> None:
        entry = ledger.spec.rounds()[round]
        rows = [self.event(round, entry.attack, entry.restart, int(example)) for example in ids]
        # Every break is kept, and in each attacked round the even survivors, whose margin is said to have improved.
        kept = [row.id for row in rows if round > 0 and (row.status == "broken" or row.id % 2 == 0)]
        x_adv = np.array([self.image(round, example) for example in kept], dtype=np.float32)
        seconds = sum(row.seconds for row in rows)
        ledger.commit(rows, x_adv, kept, round=round, attack=entry.attack, restart=entry.restart, seconds=seconds)

    def batches(self, ledger: Ledger, size: int, rounds: int | None = None) -> list[tuple[int, list[int]]]:
        """Return what is still to do in the round that the ledger has reached, as (round, ids)."""
        for number in range(len(ledger.spec.rounds()) if rounds is None else rounds):
            standing = survivors_after(ledger.run(), number - 1)
            left = [int(i) for i in standing if int(i) not in ledger.recorded(number)]
            if left:
                return [(number, left[start : start + size]) for start in range(0, len(left), size)]
        return []

    def play(self, ledger: Ledger, size: int = 4, rounds: int | None = None) -> Ledger:
        while todo := self.batches(ledger, size, rounds):
            for number, ids in todo:
                self.commit(ledger, number, ids)
        return ledger


@pytest.fixture
def scenario() -> Scenario:
    return Scenario()


@pytest.fixture(scope="session")
def make_scenario() -> Callable[..., Scenario]:
    return Scenario


@pytest.fixture
def result() -> ResultEntry:
    return ResultEntry(
        headline="Claimed 60.0%",
        verdict=Verdict(label="overstated", reasons=["apgd broke 4 more"]),
        clean_accuracy=0.9,
        claimed_accuracy=0.6,
        robust_accuracy=0.2,
        interval=(0.0567, 0.5098),
        counts={"broken": 8, "survived": 2, "error": 0, "not_run": 0},
        forwards=726,
        backwards=694,
        seconds=8.0,
    )
