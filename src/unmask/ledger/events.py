"""The events of a run as lines, as rows and as columns, and what makes a set of them well formed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from unmask.errors import LedgerError
from unmask.ledger.schema import CLEAN, MAX_ROUNDS, EventStatus, ExampleEvent, Round, Spec

MAX_LINE = 1_000_000

Columns = dict[str, npt.NDArray[Any]]
Ids = npt.NDArray[np.int64]

_TYPES: dict[str, type] = {
    "round": np.int64,
    "attack": np.str_,
    "restart": np.int64,
    "id": np.int64,
    "status": np.str_,
    "margin": np.float64,
    "loss": np.float64,
    "predicted": np.int64,
    "distance": np.float64,
    "forwards": np.int64,
    "backwards": np.int64,
    "step": np.int64,
    "seconds": np.float64,
}
_ARROW = {np.int64: pa.int64(), np.str_: pa.string(), np.float64: pa.float64()}
_TABLE = pa.schema([(name, _ARROW[kind]) for name, kind in _TYPES.items()])

_Natural = Annotated[int, Field(ge=0, lt=2**63)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _ExampleLine(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    kind: Literal["example"]
    round: _Natural
    attack: str
    restart: _Natural
    id: _Natural
    status: EventStatus
    margin: _Number | None
    loss: _Number | None
    predicted: Annotated[int, Field(ge=-1, lt=2**63)]
    distance: _Number | None
    forwards: _Natural
    backwards: _Natural
    step: _Natural | None
    seconds: _Seconds


class _CommitLine(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]
    kind: Literal["commit"]
    round: _Natural
    attack: str
    restart: _Natural
    n: Annotated[int, Field(ge=1, lt=2**63)]
    kept: _Natural
    seconds: _Seconds


_LINE: TypeAdapter[_ExampleLine | _CommitLine] = TypeAdapter(
    Annotated[_ExampleLine | _CommitLine, Field(discriminator="kind")]
)
_COMMIT_START = b'{"kind":"commit"'


class Batch(NamedTuple):
    """One committed batch: its round, the id of its first row, its size and how many adversarial images it kept."""

    round: int
    attack: str
    restart: int
    first: int
    n: int
    kept: int
    seconds: float


@dataclass
class EventLog:
    """The committed part of one journal or several; `lines` says where each row stands, `sizes` counts their bytes."""

    rows: list[ExampleEvent] = field(default_factory=list)
    lines: list[tuple[Path, int]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    sizes: dict[Path, int] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- rows and lines


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    # One NaN object for all: rows read back then equal the rows written, as tuples compare by identity first.
    return math.nan if value is None else value


def normal(event: ExampleEvent) -> ExampleEvent:
    """Return the event as it reads back from a file: Python numbers, NaN or None for what is not finite."""
    return ExampleEvent(
        int(event.round),
        str(event.attack),
        int(event.restart),
        int(event.id),
        cast(EventStatus, str(event.status)),
        _or_nan(_finite(event.margin)),
        _finite(event.loss),
        int(event.predicted),
        _or_nan(_finite(event.distance)),
        int(event.forwards),
        int(event.backwards),
        None if event.step is None else int(event.step),
        float(event.seconds),
    )


def encode(rows: Sequence[ExampleEvent], batch: Batch) -> bytes:
    """Return the lines of one batch, its commit line last; raises LedgerError for a row that breaks the schema."""
    records: list[dict[str, Any]] = []
    for row in rows:
        record = {"kind": "example", **row._asdict()}
        record["margin"], record["distance"] = _finite(row.margin), _finite(row.distance)
        records.append(record)
    commit = {"kind": "commit", **batch._asdict()}
    del commit["first"]
    records.append(commit)
    try:
        for record in records:
            _LINE.validate_python(record)
    except ValidationError as error:
        raise LedgerError(f"An event cannot be recorded: {explain(error)}.") from error
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def explain(error: ValidationError) -> str:
    """Return a pydantic error as one line: the first three fields with what is wrong with each."""
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False)[:3]:
        place = ".".join(str(word) for word in item["loc"])
        parts.append(f"{place}: {item['msg']}" if place else item["msg"])
    return "; ".join(part[:300] for part in parts)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.readline(MAX_LINE + 1):
        yield chunk


class _Reader:
    """Collects lines into batches; a fault counts only once a later commit shows that it is no torn tail."""

    def __init__(self, path: Path) -> None:
        self.log = EventLog()
        self._path = path
        self._fault: str | None = None
        self._rows: list[ExampleEvent] = []
        self._lines: list[int] = []

    def take(self, number: int, line: bytes, end: int) -> None:
        if self._fault is None:
            try:
                self._parse(number, line, end)
            except ValidationError as error:
                self._fault = f"{self._path}, line {number}: {explain(error)}"
            except LedgerError as error:
                self._fault = f"{self._path}, line {number}: {error}"
        if self._fault is not None and line.startswith(_COMMIT_START) and line.endswith(b"\n"):
            raise LedgerError(
                f"{self._fault}. The ledger was damaged or edited after it was written: restore the file, or start "
                "again in another --run-dir."
            )

    def _parse(self, number: int, line: bytes, end: int) -> None:
        if len(line) > MAX_LINE:
            raise LedgerError(f"the line is longer than {MAX_LINE:,} bytes")
        if not line.endswith(b"\n"):
            raise LedgerError("the line has no end")
        record = _LINE.validate_json(line)
        if record["kind"] == "example":
            self._rows.append(_row(record))
            self._lines.append(number)
        else:
            self._close_batch(record, end)

    def _close_batch(self, commit: _CommitLine, end: int) -> None:
        key = (commit["round"], commit["attack"], commit["restart"])
        if commit["n"] != len(self._rows):
            raise LedgerError(f"the commit counts {commit['n']} examples, the lines before it hold {len(self._rows)}")
        if any(row[:3] != key for row in self._rows):
            raise LedgerError(f"an example of the batch does not belong to round {key[0]} ({key[1]}, restart {key[2]})")
        first, seconds = self._rows[0].id, commit["seconds"]
        self.log.batches.append(Batch(*key, first, commit["n"], commit["kept"], seconds))
        self.log.rows += self._rows
        self.log.lines += [(self._path, number) for number in self._lines]
        self.log.sizes[self._path] = end
        self._rows, self._lines = [], []


def _row(line: _ExampleLine) -> ExampleEvent:
    return ExampleEvent(
        line["round"],
        line["attack"],
        line["restart"],
        line["id"],
        line["status"],
        _or_nan(line["margin"]),
        line["loss"],
        line["predicted"],
        _or_nan(line["distance"]),
        line["forwards"],
        line["backwards"],
        line["step"],
        line["seconds"],
    )


def read_log(path: Path) -> EventLog:
    """Read the committed events of an `events.jsonl`; what follows the last commit line is left out.

    A file that does not exist holds no events. Raises LedgerError with the line where a committed batch is damaged.
    """
    reader = _Reader(path)
    try:
        with path.open("rb") as stream:
            number, end = 1, 0
            for chunk in _chunks(stream):
                end += len(chunk)
                reader.take(number, chunk, end)
                number += chunk.endswith(b"\n")
    except FileNotFoundError:
        return EventLog()
    except OSError as error:
        raise LedgerError(f"Cannot read {path}: {error.strerror or error}.") from error
    return reader.log


def in_order(event: ExampleEvent) -> tuple[int, int]:
    """Return the key by which the events of a run are sorted: round and id, whoever recorded them, and when."""
    return event.round, event.id


def merged(logs: Sequence[EventLog]) -> EventLog:
    """Return the logs of one run as one, the rows in order, the batches by round."""
    lines = [line for log in logs for line in log.lines]
    found = sorted(
        zip((row for log in logs for row in log.rows), lines, strict=True), key=lambda pair: in_order(pair[0])
    )
    sizes = {path: size for log in logs for path, size in log.sizes.items()}
    batches = sorted((batch for log in logs for batch in log.batches), key=lambda batch: batch.round)
    return EventLog([row for row, _ in found], [line for _, line in found], batches, sizes)


# -------------------------------------------------------------------------------------------------------------- columns


def columns(rows: Sequence[ExampleEvent]) -> Columns:
    """Return the events as one array (E,) per field; `loss` is NaN and `step` -1 where there is none."""
    fields = zip(*rows, strict=True) if rows else [()] * len(_TYPES)
    table = dict(zip(_TYPES, fields, strict=True))
    table["loss"] = tuple(math.nan if value is None else value for value in table["loss"])
    table["step"] = tuple(-1 if value is None else value for value in table["step"])
    return {name: np.array(table[name], dtype=kind) for name, kind in _TYPES.items()}


def first_fault(events: Columns, spec: Spec, ids: Ids) -> tuple[int, str] | None:
    """Return the position and description of the first event that cannot belong to the run, or None."""
    out_of_plan = _not_of_fixed_plan(events, spec) if spec.schedule.kind == "fixed" else _not_of_moves(events, spec)
    if out_of_plan is not None:
        return out_of_plan
    if not np.isin(events["id"], ids).all():
        return _first(~np.isin(events["id"], ids), "the id is not among the run's examples")
    order = np.argsort(ids)
    place = order[np.searchsorted(ids, events["id"], sorter=order)]
    return _repeated(events["round"], place, len(ids)) or _after_break(events, place, len(ids))


def _not_of_fixed_plan(events: Columns, spec: Spec) -> tuple[int, str] | None:
    rounds = spec.rounds()
    attacks = np.array([entry.attack for entry in rounds])
    restarts = np.array([entry.restart for entry in rounds])
    known = (events["round"] >= 0) & (events["round"] < len(rounds))
    if not known.all():
        return _first(~known, f"the plan has {len(rounds)} rounds, numbered from 0, and the event names another")
    foreign = (events["attack"] != attacks[events["round"]]) | (events["restart"] != restarts[events["round"]])
    return (
        _first(foreign, "attack and restart are not those of the event's round in the plan") if foreign.any() else None
    )


def _not_of_moves(events: Columns, spec: Spec) -> tuple[int, str] | None:
    numbers, attacks, restarts = events["round"], events["attack"], events["restart"]
    clean = (numbers == 0) & (attacks == CLEAN) & (restarts == 0)
    planned = np.zeros(len(numbers), dtype=bool)
    for entry in spec.plan:
        if entry.role != CLEAN:
            planned |= (attacks == entry.attack) & (restarts < entry.restarts)
    stray = ~(clean | ((numbers > 0) & (numbers <= MAX_ROUNDS) & planned))
    if stray.any():
        return _first(stray, "attack and restart are not in the plan")
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    mixed = (attacks != attacks[first][inverse]) | (restarts != restarts[first][inverse])
    return _first(mixed, "its round holds events of another attack or restart") if mixed.any() else None


def begun_rounds(events: Columns, spec: Spec) -> tuple[Round, ...]:
    """Return the rounds that have events, in order, the clean one first."""
    numbers, first = np.unique(events["round"], return_index=True)
    found = [Round(0, spec.entry_of(CLEAN), CLEAN, 0, "clean")]
    for number, at in zip(numbers.tolist(), first.tolist(), strict=True):
        attack, restart = str(events["attack"][at]), int(events["restart"][at])
        entry = spec.entry_of(attack)
        if number > 0:
            found.append(Round(number, entry, attack, restart, spec.plan[entry].role))
    return tuple(found)


def _first(wrong: npt.NDArray[np.bool_], reason: str) -> tuple[int, str]:
    return int(np.argmax(wrong)), reason


def _repeated(rounds: Ids, place: Ids, n: int) -> tuple[int, str] | None:
    key = rounds * n + place
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), dtype=bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return _first(again, "the example has two events in one round") if again.any() else None


def _after_break(events: Columns, place: Ids, n: int) -> tuple[int, str] | None:
    broken = events["status"] == "broken"
    fell = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(fell, place[broken], events["round"][broken])
    late = events["round"] > fell[place]
    return _first(late, "the example was broken in an earlier round") if late.any() else None


def encode_table(events: Columns) -> bytes:
    """Return the events as a Parquet file; absent losses and steps and unmeasured numbers are nulls."""
    arrays = []
    for name, kind in _TYPES.items():
        values = events[name]
        if kind is np.float64:
            absent = np.isnan(values)
        else:
            absent = values == -1 if name == "step" else np.zeros(len(values), dtype=bool)
        arrays.append(pa.array(values.tolist() if kind is np.str_ else values, type=_ARROW[kind], mask=absent))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=_TABLE), sink)
    return cast(bytes, sink.getvalue().to_pybytes())


def read_table(path: Path, most: int) -> Columns:
    """Read the events of a sealed run, `most` of them at the most; raises LedgerError for a file of another form."""
    try:
        with pq.ParquetFile(path) as source:
            if not source.schema_arrow.equals(_TABLE):
                raise LedgerError(f"{path} does not hold the columns of a ledger: {', '.join(_TYPES)}.")
            if source.metadata.num_rows > most:
                raise LedgerError(f"{path} holds {source.metadata.num_rows:,} events, the plan allows {most:,}.")
            table = source.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise LedgerError(f"Cannot read {path}: {str(error)[:300]}. Restore the file.") from error
    return {name: _from_arrow(path, name, table[name]) for name in _TYPES}


def _from_arrow(path: Path, name: str, values: Any) -> npt.NDArray[Any]:
    kind = _TYPES[name]
    if name == "step":
        values = values.fill_null(-1)
    elif name in ("margin", "loss", "distance"):
        values = values.fill_null(math.nan)
    elif values.null_count:
        raise LedgerError(f"{path} lacks values in the column '{name}'. Restore the file.")
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=kind)
