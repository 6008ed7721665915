"""The diagnosis: studies of where a model's robustness comes from, each kept part by part, so that it resumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from torch import Tensor

from unmask.audit.inputs import checked_images, first_look
from unmask.audit.spec import Subject, describe
from unmask.audit.studies import STUDIES, Settings, named_attack
from unmask.contract import Model, eval_mode
from unmask.diagnostics import Finding, Findings, Sample
from unmask.diagnostics.binarization import Attack
from unmask.environment import code_version, hardware, packages
from unmask.errors import AuditError, unknown
from unmask.ledger import FindingEntry
from unmask.ledger.diagnosis import DiagnosisRecord, DiagnosisSpec
from unmask.threat import ThreatModel

USUAL_STUDIES = ("heatmap", "histogram", "surface", "eps-curve", "linearised", "activations")


@dataclass(frozen=True)
class DiagnosisProgress:
    """What a watcher is told: `done` of the `of` parts of a study, the `number`-th (from 0) of `studies`, are there."""

    study: str
    number: int
    studies: int
    done: int
    of: int


def diagnose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    studies: Sequence[str] = USUAL_STUDIES,
    grid: str = "coarse",
    restarts: int = 100,
    points: int = 41,
    directions: tuple[str, str] = ("random", "adversarial"),
    images: int | None = None,
    attack: str | Attack = "standard",
    seed: int = 0,
    run_dir: str | Path | None = None,
    batch_size: int = 256,
    ids: Tensor | None = None,
    subject: Subject | None = None,
    watch: Callable[[DiagnosisProgress], None] | None = None,
) -> Findings:
    """Study `model` on images x (B, C, H, W) float in [0, 1] with labels y (B,) int64; returns a finding per study.

    `model` maps images to logits (B, K). `studies` are names of `unmask.audit.STUDIES`, in any order; ("all",) means
    every one. What the other settings mean, and which study heeds which, says `unmask.audit.studies.Settings`. With a
    `run_dir` everything is kept there: the same call goes on where a killed one stopped, to the same findings, and
    later calls may add studies. `ids` (B,) name the examples; random draws depend on (seed, id, study) alone. A
    module is studied in eval mode and given back as it was.

    Raises DataError for unusable images or labels, ModelError for outputs that are not finite logits, AuditError for
    unknown studies or unusable settings, LedgerError if `run_dir` belongs to another diagnosis, OutputError if it
    cannot be written.
    """
    names = study_names(studies)
    settings = Settings(grid, restarts, points, directions, images, attack, batch_size)
    named_attack(attack, threat)
    if run_dir is not None and not settings.recordable:
        raise AuditError(
            f"The attack {settings.describe(('attack',))['attack']} cannot be kept in a record: two of that name may "
            "differ. Give a function of a module, under its own name, or no run_dir."
        )
    x, ids = checked_images(x, y, ids, threat, batch_size)
    with ExitStack() as held:
        held.enter_context(eval_mode(model))
        classes = first_look(model, x, y, batch_size)
        spec = _spec(model, x, y, ids, threat, seed, classes, subject or Subject(), names, settings)
        record = held.enter_context(DiagnosisRecord.open(None if run_dir is None else Path(run_dir), spec))
        sample = Sample.of(model, x, y, threat, ids=ids.tolist(), seed=seed)
        found = [
            _finding(record, name, sample, settings, _told(watch, name, number, len(names)))
            for number, name in enumerate(names)
        ]
    return Findings(Finding(**entry.model_dump()) for entry in found)


def study_names(studies: Sequence[str]) -> tuple[str, ...]:
    """Return the studies asked for, each once; "all" stands for every one. Raises AuditError for none, or unknown."""
    names = [name for word in studies for name in (STUDIES if word == "all" else [word])]
    for name in names:
        if name not in STUDIES:
            raise AuditError(unknown("study", name, [*STUDIES, "all"]))
    if not names:
        raise AuditError(f"There is no study to make; name one or more of: {', '.join(STUDIES)}.")
    return tuple(dict.fromkeys(names))


def _finding(
    record: DiagnosisRecord, name: str, sample: Sample, settings: Settings, watch: Callable[[int, int], None]
) -> FindingEntry:
    """Return a study's finding as it is recorded, or make and record it."""
    entry = record.finding(name)
    if entry is None:
        finding = STUDIES[name].run(sample, settings, partial(record.keep, name), watch)
        entry = FindingEntry(**{**vars(finding), "evidence": dict(finding.evidence)})
        record.write_finding(name, entry)
    watch(1, 1)
    return entry


def _told(
    watch: Callable[[DiagnosisProgress], None] | None, name: str, number: int, studies: int
) -> Callable[[int, int], None]:
    def told(done: int, of: int) -> None:
        if watch is not None:
            watch(DiagnosisProgress(name, number, studies, done, of))

    return told


def _spec(
    model: Model,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    threat: ThreatModel,
    seed: int,
    classes: int,
    subject: Subject,
    names: Sequence[str],
    settings: Settings,
) -> DiagnosisSpec:
    return DiagnosisSpec.model_validate(
        {
            "name": subject.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **describe(model, x, y, ids, threat, classes, subject),
            "seed": seed,
            "studies": {name: settings.describe(STUDIES[name].options) for name in names},
            "version": code_version(),
            "packages": packages(),
            "hardware": hardware(x.device),
        }
    )
