"""A recorded run, read back for reports and queries, whether it is finished or still going."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from unmask.errors import LedgerError
from unmask.ledger import files
from unmask.ledger.events import (
    Columns,
    EventLog,
    begun_rounds,
    columns,
    explain,
    first_fault,
    merged,
    read_log,
    read_table,
)
from unmask.ledger.schema import SCHEMA_VERSION, FindingEntry, ResultEntry, Round, Spec
from unmask.ledger.tensors import (
    Ids,
    Images,
    KeptIndex,
    read_images,
    read_kept,
    read_kept_ids,
    read_labels,
    shard_name,
)

MAX_DOCUMENT = 64_000_000

_Document = TypeVar("_Document")
_FINDINGS = TypeAdapter(list[FindingEntry])


class _Version(BaseModel):
    schema_version: int


@dataclass(frozen=True)
class Run:
    """One audit as recorded: `path` is None for a run kept in memory, `result` until the run is finished.

    `events` holds one array (E,) per field of an event; `ids` and `labels` are (N,). `complete`: every round that was
    to be run has been.
    """

    path: Path | None
    spec: Spec
    ids: Ids
    labels: Ids
    events: Columns
    findings: tuple[FindingEntry, ...]
    result: ResultEntry | None
    complete: bool
    read_images: Callable[[], Images]
    read_adversarial: Callable[[], tuple[Ids, Images]]

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds in order: all that a fixed plan holds, those that an adaptive schedule has begun."""
        return tuple(self.spec.rounds()) if self.spec.schedule.kind == "fixed" else begun_rounds(self.events, self.spec)

    def inputs(self) -> tuple[Ids, Ids, Images]:
        """Return ids (N,), labels (N,) and images (N, C, H, W) float32; raises LedgerError for a damaged file."""
        return self.ids, self.labels, self.read_images()

    def adversarial(self) -> tuple[Ids, Images]:
        """Return ids (M,) ascending and the best adversarial image kept of each (M, C, H, W); raises LedgerError."""
        return self.read_adversarial()


def refuse_oversized(path: Path) -> None:
    """Raise LedgerError for a JSON file of more than 64 MB, and OSError where there is none."""
    if path.stat().st_size > MAX_DOCUMENT:
        raise LedgerError(f"{path} is larger than {MAX_DOCUMENT:,} bytes; this is no file that unmask wrote.")


def _document(path: Path, parse: Callable[[bytes], _Document]) -> _Document | None:
    """Read a JSON file, None where there is none; raises LedgerError naming the file and the fields at fault."""
    try:
        refuse_oversized(path)
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValidationError as error:
        raise LedgerError(f"{path} is not as unmask writes it: {explain(error)}. Restore it from a copy.") from error


def read_spec(run_dir: Path) -> Spec | None:
    """Return the spec of a run directory, None where there is none; raises LedgerError."""
    path = run_dir / files.SPEC
    version = _document(path, _Version.model_validate_json)
    if version is not None and version.schema_version != SCHEMA_VERSION:
        raise LedgerError(
            f"{path} was written in ledger format {version.schema_version}; this version of unmask reads format "
            f"{SCHEMA_VERSION}. Use the version of unmask that wrote it."
        )
    return _document(path, Spec.model_validate_json)


def read_findings(run_dir: Path) -> list[FindingEntry]:
    """Return the findings of a run directory; raises LedgerError."""
    return _document(run_dir / files.FINDINGS, _FINDINGS.validate_json) or []


def read_result(run_dir: Path) -> ResultEntry | None:
    """Return the result of a finished run, None while it is not finished; raises LedgerError."""
    return _document(run_dir / files.RESULT, ResultEntry.model_validate_json)


def read_logs(run_dir: Path) -> EventLog:
    """Return the committed events of all who wrote to the run, as one log; raises LedgerError with the line."""
    return merged([read_log(path) for path in files.journals(run_dir)])


def read_events(run_dir: Path, spec: Spec, ids: Ids) -> tuple[EventLog, Columns]:
    """Return the committed events of a run, checked against the plan; raises LedgerError with the line."""
    log = read_logs(run_dir)
    events = columns(log.rows)
    fault = first_fault(events, spec, ids)
    if fault is not None:
        path, line = log.lines[fault[0]]
        raise LedgerError(f"{path}, line {line}: {fault[1]}. Restore the file.")
    return log, events


def index_shards(run_dir: Path, spec: Spec, log: EventLog) -> KeptIndex:
    """Return where the adversarial images of the committed batches lie; raises LedgerError for a missing one."""
    index = KeptIndex(spec.data.input_shape)
    for batch in log.batches:
        if batch.kept:
            path = run_dir / files.SHARDS / shard_name(batch.round, batch.first)
            ids = read_kept_ids(path)
            if len(ids) != batch.kept:
                raise LedgerError(f"{path} holds {len(ids)} images, {batch.kept} were committed. Restore it.")
            index.add(path, ids)
    return index


def _sealed_events(run_dir: Path, spec: Spec, ids: Ids) -> Columns:
    path = run_dir / files.EVENTS_TABLE
    if not path.exists():
        return read_events(run_dir, spec, ids)[1]
    events = read_table(path, most=len(ids) * len(spec.rounds()))
    fault = first_fault(events, spec, ids)
    if fault is not None:
        raise LedgerError(f"{path}, row {fault[0]}: {fault[1]}. Restore the file.")
    return events


def _adversarial(run_dir: Path, spec: Spec) -> tuple[Ids, Images]:
    # Asked anew on each call: another process may have sealed the run since it was loaded.
    if (run_dir / files.RESULT).exists():
        return read_kept(run_dir / files.ADVERSARIAL, spec.data.input_shape)
    return index_shards(run_dir, spec, read_logs(run_dir)).read()


def load_run(path: Path | str) -> Run:
    """Read a run directory without changing it, finished or not; a batch that is being written is left out.

    Raises LedgerError where the folder holds no ledger, or naming the file (and line) that is damaged.
    """
    run_dir = Path(path)
    spec = read_spec(run_dir)
    if spec is None:
        raise LedgerError(f"{run_dir} holds no ledger: there is no {files.SPEC} in it. Give a run directory.")
    ids, labels = read_labels(run_dir / files.INPUTS, spec)
    result = read_result(run_dir)
    events = _sealed_events(run_dir, spec, ids) if result else read_events(run_dir, spec, ids)[1]
    return Run(
        path=run_dir,
        spec=spec,
        ids=ids,
        labels=labels,
        events=events,
        findings=tuple(read_findings(run_dir)),
        result=result,
        complete=result is not None,
        read_images=partial(read_images, run_dir / files.INPUTS, spec),
        read_adversarial=partial(_adversarial, run_dir, spec),
    )
