"""The record of a run: spec, events, adversarial images, findings and result, and what can be asked of them."""

from unmask.ledger.run import Run, load_run
from unmask.ledger.schema import (
    DataEntry,
    ExampleEvent,
    FindingEntry,
    ModelEntry,
    PlanEntry,
    ResultEntry,
    Round,
    ScheduleEntry,
    Spec,
    ThreatEntry,
    VerdictEntry,
)
from unmask.ledger.store import Ledger

__all__ = [
    "DataEntry",
    "ExampleEvent",
    "FindingEntry",
    "Ledger",
    "ModelEntry",
    "PlanEntry",
    "ResultEntry",
    "Round",
    "Run",
    "ScheduleEntry",
    "Spec",
    "ThreatEntry",
    "VerdictEntry",
    "load_run",
]
