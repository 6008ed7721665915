"""Runs written through the real ledger: images of any shape, an attack that moves every pixel by eps or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.ledger import (
    DataEntry,
    ExampleEvent,
    FindingEntry,
    Ledger,
    ModelEntry,
    PlanEntry,
    ResultEntry,
    Run,
    Spec,
    ThreatEntry,
    VerdictEntry,
)
from unmask.ledger.diagnosis import Diagnosis, DiagnosisSpec
from unmask.ledger.queries import (
    claimed_accuracy,
    clean_accuracy,
    cost,
    counts,
    headline,
    robust_accuracy,
    survivors_after,
    wilson_interval,
)

PLAN = (
    PlanEntry(attack="clean", role="clean"),
    PlanEntry(attack="pgd-10", role="claim", settings={"steps": 10, "step_size": 0.05}, description="the usual attack"),
    PlanEntry(attack="margin", role="search", restarts=3, settings={"steps": 20, "loss": "margin"}),
    PlanEntry(attack="square", role="search", settings={"queries": 100}),
)
# The share of the images (in their order) that each round breaks, in the order of the rounds.
BREAKS = (0.05, 0.25, 0.25, 0.1, 0.05, 0.05)

EPS_CURVE = FindingEntry(
    check="eps_curve",
    status="ok",
    summary="Without a bound, 0% of the images survive.",
    evidence={"eps": [0.0, 0.1, 0.2, 0.4], "accuracy": [1.0, 0.8, 0.35, 0.0], "n": 40, "attack": "cosine_pgd"},
    forwards=800,
    backwards=800,
)
RESTART_LOSSES = FindingEntry(
    check="restart_losses",
    status="warn",
    summary="On 1 of 2 images the success of PGD-10 hangs on its random start.",
    evidence={
        "attack": "pgd, 10 steps",
        "ids": [1003, 1005],
        "losses": [[0.1, 0.2, 2.4, 2.5], [1.0, 1.1, 1.2, 1.3]],
        "guarantee": 2.302585092994046,
        "kinds": ["depends on the restart", "not found"],
    },
    next_step="Report the worst of many restarts.",
)
CLAIM_GAP = FindingEntry(
    check="claim_gap",
    status="fail",
    summary="The usual attack overlooks 45.0% of the images.",
    evidence={"claimed": 0.7, "measured": 0.25, "gap": 0.45, "interval": [0.3, 0.6]},
    next_step="Do not report the claimed figure.",
)
FINDINGS = (EPS_CURVE, RESTART_LOSSES, CLAIM_GAP)


ALERT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """An HTML page taken apart: elements in order, texts that a reader sees, contents of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)
            self.scripts += [""] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open == ["script"]:
            self.scripts[-1] += data
        elif not self._open and data.strip():
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@dataclass
class Story:
    """What is to be recorded: `play` writes it to a ledger, up to round `until`, and seals it when asked to."""

    n: int = 40
    shape: tuple[int, int, int] = (1, 8, 8)
    plan: Sequence[PlanEntry] = PLAN
    breaks: Sequence[float] = BREAKS
    findings: Sequence[FindingEntry] = FINDINGS
    errors: frozenset[int] = frozenset()
    label: str = "masked"
    reasons: Sequence[str] = ("The usual attack overlooks 45.0% of the images.",)
    change: Sequence[str] = ("Another model.",)
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> np.ndarray:
        return np.arange(1000, 1000 + self.n)

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.n) % 3

    @property
    def images(self) -> np.ndarray:
        drawn = np.random.default_rng(0).integers(0, 256, (self.n, *self.shape))
        return (drawn / 255).astype(np.float32)

    def spec(self) -> Spec:
        values = {
            "name": "digits-clp",
            "created": "2020-01-02T03:04:05+00:00",
            "model": ModelEntry(source="runs/digits-clp", fingerprint="a1b2c3", parameters=151_306),
            "data": self.data(),
            "threat": ThreatEntry(norm="linf", eps="0.2"),
            "plan": list(self.plan),
            "claim": "pgd-10" if any(entry.role == "claim" for entry in self.plan) else None,
            "budget": "standard",
            "seed": 7,
            "batch_size": 64,
            "version": "0.1.0",
            "packages": {"torch": "2.15.0", "numpy": "2.4.6"},
            "hardware": {"cpu": "A Processor", "cores": "2"},
        }
        return Spec(**(values | self.changes))

    def data(self, classes: Sequence[str] = ("zero", "one", "two"), **changes: Any) -> DataEntry:
        values = {
            "name": "digits",
            "split": "test",
            "n": self.n,
            "fingerprint": "d4e5f6",
            "classes": list(classes),
            "input_shape": list(self.shape),
        }
        return DataEntry(**(values | changes))

    def play(self, run_dir: Path | None = None, until: int | None = None, seal: bool = True) -> Run:
        spec = self.spec()
        with Ledger.open(run_dir, spec, ids=self.ids, labels=self.labels, images=self.images) as ledger:
            for entry in spec.rounds()[:until]:
                self._round(ledger, entry.round, entry.attack, entry.restart)
            ledger.write_findings(self.findings)
            if seal and until is None:
                ledger.seal(self._result(ledger.run()))
            return ledger.run()

    def _round(self, ledger: Ledger, number: int, attack: str, restart: int) -> None:
        standing = survivors_after(ledger.run(), number - 1)
        if not len(standing):
            return
        wanted = round(self.breaks[number] * self.n)
        fallen = set(standing[:wanted].tolist()) - self.errors
        rows = [self._event(number, attack, restart, int(i), int(i) in fallen) for i in standing]
        kept = [row.id for row in rows if number > 0 and row.status != "error"]
        x_adv = np.stack([self._attacked(number, i) for i in kept]) if kept else np.empty((0, *self.shape), np.float32)
        ledger.commit(rows, x_adv, kept, round=number, attack=attack, restart=restart, seconds=0.5)

    def _event(self, number: int, attack: str, restart: int, example: int, broken: bool) -> ExampleEvent:
        label = (example - 1000) % 3
        passes = 1 if number == 0 else 10
        if example in self.errors and number > 0:
            return ExampleEvent(number, attack, restart, example, "error", np.nan, None, -1, np.nan, 0, 0, None, 0.01)
        return ExampleEvent(
            round=number,
            attack=attack,
            restart=restart,
            id=example,
            status="broken" if broken else "survived",
            margin=0.25 + number if broken else -1.0 - (example % 7) / 10,
            loss=1.5,
            predicted=(label + 1) % 3 if broken else label,
            distance=0.2 if number else 0.0,
            forwards=passes,
            backwards=passes - 1,
            step=example % 10 + 1 if broken and number else None,
            seconds=0.01,
        )

    def _attacked(self, number: int, example: int) -> np.ndarray:
        image = self.images[example - 1000]
        signs = np.random.default_rng((number, example)).choice([-1, 0, 1], image.shape)
        return np.clip(image + 0.2 * signs, 0, 1).astype(np.float32)

    def _result(self, run: Run) -> ResultEntry:
        found, spent = counts(run), cost(run)
        whole = found["error"] == found["not_run"] == 0
        return ResultEntry(
            headline=headline(run) if whole else None,
            verdict=VerdictEntry(
                label=self.label if whole else "inconclusive", reasons=list(self.reasons), change=list(self.change)
            ),
            clean_accuracy=clean_accuracy(run),
            claimed_accuracy=claimed_accuracy(run),
            robust_accuracy=robust_accuracy(run),
            interval=wilson_interval(found["survived"], self.n),
            counts=found,
            forwards=spent.forwards + 100,
            backwards=spent.backwards,
            seconds=spent.seconds,
        )


@pytest.fixture(scope="session")
def story() -> Callable[..., Story]:
    return Story


@pytest.fixture(scope="session")
def run() -> Run:
    """A finished run in memory: 40 images of 8x8, clean 95%, claimed 70%, measured 25%."""
    return Story().play()


STUDIES = {
    "heatmap": FindingEntry(
        check="heatmap",
        status="warn",
        summary="PGD leaves less with larger steps.",
        evidence={
            "step_sizes": [0.01, 0.02, 0.04],
            "steps": [10, 40],
            "accuracy": [[0.9, 0.8], [0.7, 0.5], [0.4, 0.6]],
            "usual": [40, 0.01],
            "lowest_at": [10, 0.04],
            "n": 10,
        },
        forwards=100,
        backwards=100,
    ),
    "surface": FindingEntry(
        check="surface",
        status="ok",
        summary="The loss turns 0.0 times per line.",
        evidence={
            "ids": [1003, 1005],
            "directions": ["random", "adversarial"],
            "axis": [-0.2, 0.0, 0.2],
            "loss": [[[0.1, 0.2, 0.3], [1.1, 1.2, 1.3], [2.1, 2.2, 2.4]], [[0.5] * 3] * 3],
            "guarantee": 2.302585092994046,
            "eps": 0.2,
        },
    ),
    "linearised": FindingEntry(
        check="linearised",
        status="ok",
        summary="Logits and gradients at the image predict 40.0% accuracy.",
        evidence={
            "eps": 0.2,
            "logit_gap": [1.0, 2.0, 3.0, 4.0],
            "gradient_gap": [10.0, 10.0, 10.0, 10.0],
            "eps_linear": [0.1, 0.2, None, 0.4],
            "cosine": [-0.5, -0.4, 0.3, 0.2],
            "logits": {"edges": [0.0, 1.0], "counts": [4]},
        },
    ),
    "step-curve": FindingEntry(
        check="step_curve",
        status="ok",
        summary="PGD leaves 40.0% after 100 steps.",
        evidence={"steps": [1, 10, 100], "accuracy": [0.9, 0.6, 0.4], "n": 10, "attack": "pgd"},
    ),
}


@pytest.fixture(scope="session")
def diagnosis() -> Diagnosis:
    """A diagnosis of the model of `run`."""
    spec = Story().spec()
    shared = {"name": spec.name, "model": spec.model, "data": spec.data, "threat": spec.threat, "seed": 0}
    found = DiagnosisSpec(**shared, created=spec.created, studies={name: {} for name in STUDIES}, version="0.1.0")
    return Diagnosis(Path("diagnosed"), found, STUDIES)


@pytest.fixture(scope="session")
def hostile() -> Run:
    """Return a run that carries markup in every text a ledger holds."""
    make = Story()
    changes: dict[str, Any] = {
        "name": ALERT,
        "created": ALERT,
        "data": make.data(classes=[ALERT, "one", ALERT], name=ALERT, split=ALERT, fingerprint=ALERT),
        "model": ModelEntry(source=ALERT, fingerprint=ALERT),
        "plan": [
            make.plan[0],
            PlanEntry(attack=ALERT, role="claim", settings={"steps": 10, ALERT: ALERT}, description=ALERT),
            PlanEntry(attack=f"2{ALERT}", role="search", restarts=3),
        ],
        "claim": ALERT,
        "budget": ALERT,
        "version": ALERT,
        "packages": {ALERT: ALERT},
        "hardware": {ALERT: {ALERT: [ALERT]}},
    }
    findings = [
        finding.model_copy(update={"evidence": finding.evidence | {"attack": ALERT, "kinds": [ALERT] * 2}})
        for finding in make.findings
    ]
    findings.append(FindingEntry(check=ALERT, status="warn", summary=ALERT, evidence={ALERT: ALERT}, next_step=ALERT))
    plan = changes.pop("plan")
    return Story(plan=plan, findings=findings, changes=changes, label=ALERT, reasons=[ALERT], change=[ALERT]).play()


@pytest.fixture(scope="session")
def read() -> Callable[[str], Page]:
    return Page
