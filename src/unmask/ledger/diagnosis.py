"""The record of a diagnosis: what is studied, the parts of long studies, one finding per study."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from unmask.errors import LedgerError
from unmask.files import draft_of, make_folder, write_atomic, writing
from unmask.ledger import files
from unmask.ledger.events import explain
from unmask.ledger.run import refuse_oversized
from unmask.ledger.schema import DataEntry, FindingEntry, ModelEntry, PlainDict, ThreatEntry

DIAGNOSIS, PARTS, FINDINGS = "diagnosis.json", "parts", "findings"
COMPARED = ("model.fingerprint", "data.fingerprint", "threat", "seed", "version")

Value = TypeVar("Value")


class DiagnosisSpec(BaseModel):
    """Everything that decides a diagnosis: `studies` holds the settings of every study begun, by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Literal["diagnosis"] = "diagnosis"
    schema_version: Literal[1] = 1
    name: str
    created: str
    model: ModelEntry
    data: DataEntry
    threat: ThreatEntry
    seed: int
    studies: dict[str, PlainDict] = {}
    version: str
    packages: dict[str, str] = {}
    hardware: PlainDict = {}


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis as recorded: its folder, what was studied, and the findings there are, by study."""

    path: Path
    spec: DiagnosisSpec
    findings: Mapping[str, FindingEntry]


class DiagnosisRecord:
    """A diagnosis open for writing, in a folder or (`run_dir` None) in memory; a context manager."""

    def __init__(self, run_dir: Path | None, spec: DiagnosisSpec, lock: files.RunLock | None) -> None:
        self.spec = spec
        self._dir = run_dir
        self._lock = lock

    @classmethod
    def open(cls, run_dir: Path | None, spec: DiagnosisSpec) -> Self:
        """Begin a diagnosis, or go on with the one in `run_dir`; studies that are new to it join those recorded.

        Raises LedgerError for another diagnosis's or a stranger's folder (naming what differs), one that another
        process writes, or a damaged record; OutputError where the folder cannot be written.
        """
        if run_dir is None:
            return cls(None, spec, None)
        make_folder(run_dir)
        _refuse_stranger(run_dir)
        lock = files.RunLock.take(run_dir / files.LOCK)
        try:
            recorded = _read_spec(run_dir)
            if recorded is not None:
                _refuse_another(run_dir, recorded, spec)
                spec = recorded.model_copy(update={"studies": {**recorded.studies, **spec.studies}})
            if spec != recorded:
                _write(run_dir / DIAGNOSIS, spec.model_dump(mode="json"))
            for folder in (PARTS, FINDINGS):
                make_folder(run_dir / folder)
        except BaseException:
            lock.release()
            raise
        return cls(run_dir, spec, lock)

    def keep(self, study: str, name: str, compute: Callable[[], Value]) -> Value:
        """Return a part of a study as it is recorded, computing and recording it where it is not, or is damaged.

        What comes back has been through JSON in either case, so that a resumed study sees what an unbroken one does.
        """
        path = None if self._dir is None else self._dir / PARTS / _part_name(study, name)
        recorded = None if path is None else _read_part(path, name)
        if recorded is not None:
            value: Value = json.loads(recorded)
            return value
        text = json.dumps(compute())
        if path is not None:
            _write(path, {"part": name, "sha256": _digest(text), "value": json.loads(text)})
        value = json.loads(text)
        return value

    def finding(self, study: str) -> FindingEntry | None:
        """Return the recorded finding of a study; None where there is none, or it is damaged and must be made anew."""
        if self._dir is None:
            return None
        try:
            return _read_finding(_finding_path(self._dir, study))
        except LedgerError:
            return None

    def write_finding(self, study: str, finding: FindingEntry) -> None:
        """Record the finding of a study; raises OutputError."""
        if self._dir is not None:
            _write(_finding_path(self._dir, study), finding.model_dump(mode="json"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()


def is_diagnosis(path: Path | str) -> bool:
    """Say whether a folder holds a diagnosis."""
    return (Path(path) / DIAGNOSIS).is_file()


def load_diagnosis(path: Path | str) -> Diagnosis:
    """Read a diagnosis without changing it; raises LedgerError where there is none, or naming the damaged file."""
    run_dir = Path(path)
    spec = _read_spec(run_dir)
    if spec is None:
        raise LedgerError(f"{run_dir} holds no diagnosis: there is no {DIAGNOSIS} in it. Give a run of diagnose.")
    found = {study: _read_finding(_finding_path(run_dir, study)) for study in spec.studies}
    return Diagnosis(run_dir, spec, {study: finding for study, finding in found.items() if finding is not None})


def _write(path: Path, value: object) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def _finding_path(run_dir: Path, study: str) -> Path:
    return run_dir / FINDINGS / f"{_slug(study)}.json"


def _part_name(study: str, name: str) -> str:
    """Return a file name that no other part has, with as much of the part's own name as file systems take."""
    return f"{_slug(study)}-{_slug(name)[:60]}-{_digest(f'{study}/{name}')[:12]}.json"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        refuse_oversized(path)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LedgerError(f"Cannot read {path}: {error.strerror or error}.") from error


def _read_part(path: Path, name: str) -> str | None:
    """Return a part's JSON, None where there is none or it is not what was written: it will be computed again."""
    try:
        part = json.loads(_read(path) or b"null")
    except ValueError:
        return None
    if not isinstance(part, dict) or part.get("part") != name:
        return None
    text = json.dumps(part.get("value"))
    return text if part.get("sha256") == _digest(text) else None


def _read_spec(run_dir: Path) -> DiagnosisSpec | None:
    path = run_dir / DIAGNOSIS
    payload = _read(path)
    try:
        return None if payload is None else DiagnosisSpec.model_validate_json(payload)
    except ValidationError as error:
        raise LedgerError(_damaged(path, error)) from error


def _read_finding(path: Path) -> FindingEntry | None:
    payload = _read(path)
    try:
        return None if payload is None else FindingEntry.model_validate_json(payload)
    except ValidationError as error:
        raise LedgerError(f"{_damaged(path, error)} The same `unmask diagnose` makes it anew.") from error


def _damaged(path: Path, error: ValidationError) -> str:
    return f"{path} is not as unmask writes it: {explain(error)}. Restore it from a copy."


def _refuse_stranger(run_dir: Path) -> None:
    with writing(run_dir):
        found = {path.name for path in run_dir.iterdir()} - {files.LOCK, draft_of(run_dir / DIAGNOSIS).name}
    if DIAGNOSIS not in found and found:
        raise LedgerError(
            f"{run_dir} holds files that are not a diagnosis ('{min(found)}' and {len(found) - 1} more). "
            "Give a new or an empty folder as --run-dir."
        )


def _refuse_another(run_dir: Path, recorded: DiagnosisSpec, given: DiagnosisSpec) -> None:
    old, new = (dict(_flat(spec.model_dump(mode="json"))) for spec in (recorded, given))
    shared = {f"studies.{study}" for study in recorded.studies if study in given.studies}
    compared = tuple(f"{name}." for name in (*COMPARED, *sorted(shared)))
    changed = [
        f"{name} is recorded as {json.dumps(old.get(name))} and given as {json.dumps(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if f"{name}.".startswith(compared) and old.get(name) != new.get(name)
    ]
    if changed:
        raise LedgerError(f"{run_dir} belongs to another diagnosis: {'; '.join(changed)}. Use another --run-dir.")


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{above}{name}.")
        else:
            yield f"{above}{name}", item
