"""The ledger of a run: an append-only record of batches that survives a kill at any moment."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from unmask.errors import LedgerError
from unmask.files import draft_of, make_folder, remove, write_atomic, writing
from unmask.ledger import files
from unmask.ledger.events import (
    Batch,
    Columns,
    columns,
    encode,
    encode_table,
    first_fault,
    in_order,
    normal,
)
from unmask.ledger.run import Run, index_shards, read_events, read_findings, read_result, read_spec
from unmask.ledger.schema import ExampleEvent, FindingEntry, ResultEntry, Spec
from unmask.ledger.tensors import (
    Ids,
    Images,
    KeptIndex,
    as_pixels,
    encode_arrays,
    encode_inputs,
    read_images,
    read_kept,
    read_labels,
    shard_name,
)

COMPARED = (
    "model.fingerprint",
    "data.fingerprint",
    "threat",
    "plan",
    "schedule",
    "claim",
    "top",
    "budget",
    "seed",
    "version",
)
_SHARD = re.compile(r"\d+-\d+\.safetensors|\.\d+-\d+\.safetensors\.tmp")


class _Store(Protocol):
    """Where a ledger keeps what is committed to it."""

    def commit(self, batch: Batch, rows: Sequence[ExampleEvent], kept: Ids, x_adv: Images) -> None: ...
    def adopt(self, batch: Batch, kept: Ids, x_adv: Images) -> None: ...
    def best(self) -> tuple[Ids, Images]: ...
    def images(self) -> Images: ...
    def write_findings(self, findings: Sequence[FindingEntry]) -> None: ...
    def seal(self, result: ResultEntry, events: Columns) -> None: ...
    def close(self) -> None: ...


class _Memory:
    """Keeps the latest adversarial image of each example; all the rest lives in the Ledger."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._kept: dict[int, Images] = {}

    def commit(self, batch: Batch, rows: Sequence[ExampleEvent], kept: Ids, x_adv: Images) -> None:
        encode(rows, batch)  # the same checks as for a file
        self.adopt(batch, kept, x_adv)

    def adopt(self, batch: Batch, kept: Ids, x_adv: Images) -> None:
        for example, image in zip(kept.tolist(), x_adv, strict=True):
            self._kept[example] = image.copy()

    def best(self) -> tuple[Ids, Images]:
        ids = sorted(self._kept)
        images = np.empty((len(ids), *self._images.shape[1:]), dtype=np.float32)
        for row, example in enumerate(ids):
            images[row] = self._kept[example]
        return np.array(ids, dtype=np.int64), images

    def images(self) -> Images:
        return self._images

    def write_findings(self, findings: Sequence[FindingEntry]) -> None: ...
    def seal(self, result: ResultEntry, events: Columns) -> None: ...
    def close(self) -> None: ...


class _Folder:
    """Keeps everything in a run directory, for as long as `lock` is held.

    Of several processes that write together each has a journal, and the first one (`leads`) what there is once.
    """

    def __init__(
        self, run_dir: Path, spec: Spec, lock: files.RunLock, journal: files.Journal, index: KeptIndex, leads: bool
    ) -> None:
        self._dir = run_dir
        self._leads = leads
        self._spec = spec
        self._lock = lock
        self._journal = journal
        self._index = index

    def commit(self, batch: Batch, rows: Sequence[ExampleEvent], kept: Ids, x_adv: Images) -> None:
        lines = encode(rows, batch)
        if len(kept):
            shard = self._shard(batch)
            make_folder(shard.parent)
            write_atomic(shard, encode_arrays(ids=kept, x_adv=x_adv))
        self._journal.append(lines)
        self.adopt(batch, kept, x_adv)

    def adopt(self, batch: Batch, kept: Ids, x_adv: Images) -> None:
        self._index.add(self._shard(batch), kept.tolist())

    def _shard(self, batch: Batch) -> Path:
        return self._dir / files.SHARDS / shard_name(batch.round, batch.first)

    def best(self) -> tuple[Ids, Images]:
        if (self._dir / files.RESULT).exists():
            return read_kept(self._dir / files.ADVERSARIAL, self._spec.data.input_shape)
        return self._index.read()

    def images(self) -> Images:
        return read_images(self._dir / files.INPUTS, self._spec)

    def write_findings(self, findings: Sequence[FindingEntry]) -> None:
        if self._leads:
            _write_json(self._dir / files.FINDINGS, [finding.model_dump(mode="json") for finding in findings])

    def seal(self, result: ResultEntry, events: Columns) -> None:
        if not self._leads:
            return
        ids, x_adv = self._index.read()
        write_atomic(self._dir / files.EVENTS_TABLE, encode_table(events))
        write_atomic(self._dir / files.ADVERSARIAL, encode_arrays(ids=ids, x_adv=x_adv))
        # The marker comes last: before it the shards count, after it the merged file does.
        _write_json(self._dir / files.RESULT, result.model_dump(mode="json"))
        _remove_shards(self._dir, keep=frozenset())

    def close(self) -> None:
        self._journal.close()
        self._lock.release()


class Ledger:
    """The record of one run, open for writing; a context manager. Made by `Ledger.open`, used by one thread.

    `spec` is the recorded one. `resumed` says that the run existed before, `sealed` that it is finished: a sealed
    ledger takes no more batches or findings.
    """

    def __init__(
        self, store: _Store, spec: Spec, inputs: tuple[Ids, Ids], rows: list[ExampleEvent], run_dir: Path | None
    ) -> None:
        self.spec = spec
        self.run_dir = run_dir
        self.resumed = False
        self.result: ResultEntry | None = None
        self._ids, self._labels = inputs
        self._store = store
        self._rows = rows
        self._findings: list[FindingEntry] = []
        self._columns: Columns | None = None
        self._open = True
        self._recorded: dict[int, set[int]] = {}
        self._turns: dict[int, tuple[str, int]] = {}
        self._broken: set[int] = set()
        self._note(rows)

    @classmethod
    def open(
        cls,
        run_dir: Path | str | None,
        spec: Spec,
        *,
        ids: npt.ArrayLike,
        labels: npt.ArrayLike,
        images: npt.ArrayLike,
        writer: int = 0,
    ) -> Self:
        """Begin a run, or take up the one that `run_dir` holds; None keeps the run in memory.

        `ids` (N,), `labels` (N,), `images` (N, C, H, W) float32 in [0, 1] or uint8. A torn last batch is cut off.
        Processes that write one run together number themselves by `writer`: the others open it once the first has, and
        all commit once all have opened it. Each appends to a journal of its own; the first one seals.
        Raises LedgerError for another run's or a stranger's folder, a locked or a damaged ledger; OutputError where
        the folder cannot be written.
        """
        inputs = _checked_inputs(spec, ids, labels, images)
        if run_dir is None:
            return cls(_Memory(inputs[2]), spec, inputs[:2], [], None)
        return cls._open_folder(Path(run_dir), spec, *inputs, writer)

    @classmethod
    def _open_folder(cls, run_dir: Path, spec: Spec, ids: Ids, labels: Ids, images: Images, writer: int) -> Self:
        lock = _lock(run_dir, writer)
        try:
            recorded = _claim(run_dir, spec) if writer == 0 else _recorded(run_dir, spec)
            _write_or_compare_inputs(run_dir, spec, ids, labels, images)
            result, findings = read_result(run_dir), read_findings(run_dir)
            store, rows = _resume(run_dir, recorded or spec, ids, lock, result is not None, writer)
        except BaseException:
            lock.release()
            raise
        ledger = cls(store, recorded or spec, (ids, labels), rows, run_dir)
        ledger.resumed, ledger.result, ledger._findings = recorded is not None, result, findings
        return ledger

    @property
    def sealed(self) -> bool:
        """Whether the run is finished."""
        return self.result is not None

    def commit(
        self,
        rows: Sequence[ExampleEvent],
        x_adv: npt.ArrayLike,
        kept: npt.ArrayLike,
        *,
        round: int,
        attack: str,
        restart: int,
        seconds: float,
        elsewhere: bool = False,
    ) -> None:
        """Record one batch of a round, whole or not at all; only take it in where another process wrote it to this run.

        `x_adv` (M, C, H, W) holds the images to keep and `kept` (M,) their ids: every break after the clean round, and
        survivors whose best margin improved. Raises LedgerError for rows that do not belong to the round or were
        recorded before, OutputError where nothing can be written.
        """
        rows = [normal(row) for row in rows]
        batch, kept_ids, pixels = self._checked(rows, x_adv, kept, (round, attack, restart), seconds)
        if elsewhere:
            self._store.adopt(batch, kept_ids, pixels)
        else:
            self._store.commit(batch, rows, kept_ids, pixels)
        self._take_in(rows)

    def events(self) -> list[ExampleEvent]:
        """Return the committed events by round and id."""
        return sorted(self._rows, key=in_order)

    def recorded(self, round: int) -> frozenset[int]:
        """Return the ids that have a committed event in `round`."""
        return frozenset(self._recorded.get(round, ()))

    def best(self) -> tuple[Ids, Images]:
        """Return ids (M,) ascending and the image kept last for each (M, C, H, W) float32; raises LedgerError."""
        return self._store.best()

    def write_findings(self, findings: Sequence[FindingEntry]) -> None:
        """Replace the recorded findings; raises LedgerError on a sealed run that holds others, OutputError."""
        if self.sealed and list(findings) == self._findings:
            return
        self._writable()
        self._store.write_findings(findings)
        self._findings = list(findings)

    def findings(self) -> list[FindingEntry]:
        """Return the recorded findings."""
        return list(self._findings)

    def seal(self, result: ResultEntry) -> None:
        """Finish the run; doing it again with the same result changes nothing.

        Raises LedgerError while some round of a fixed plan has not been run on all its survivors, or where the run is
        sealed with another result; OutputError where nothing can be written.
        """
        if result == self.result:
            return
        self._writable()
        waiting = self._not_run()
        if waiting:
            raise LedgerError(f"{waiting:,} events are still missing from the plan. Finish its rounds before sealing.")
        self._store.seal(result, self._events())
        self.result = result

    def run(self, *, complete: bool = False) -> Run:
        """Return the run as recorded up to now, for queries; it does not change with later commits.

        `complete` says that an adaptive schedule has nothing more to run; of a fixed plan the events tell.
        """
        return Run(
            path=self.run_dir,
            spec=self.spec,
            ids=self._ids,
            labels=self._labels,
            events=self._events(),
            findings=tuple(self._findings),
            result=self.result,
            complete=complete or self.sealed,
            read_images=self._store.images,
            read_adversarial=self._store.best,
        )

    def close(self) -> None:
        """Give the run directory back; a closed ledger can be read but not written."""
        if self._open:
            self._open = False
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _events(self) -> Columns:
        if self._columns is None:
            self._columns = columns(self.events())
        return self._columns

    def _take_in(self, rows: Sequence[ExampleEvent]) -> None:
        self._rows += rows
        self._columns = None
        self._note(rows)

    def _note(self, rows: Sequence[ExampleEvent]) -> None:
        for row in rows:
            self._recorded.setdefault(row.round, set()).add(row.id)
            self._turns[row.round] = (row.attack, row.restart)
            if row.status == "broken":
                self._broken.add(row.id)

    def _not_run(self) -> int:
        if self.spec.schedule.kind == "adaptive":
            return 0
        missing = 0
        fell = {row.id: row.round for row in self._rows if row.status == "broken"}
        for number, *_ in self.spec.rounds():
            done = self._recorded.get(number, set())
            missing += sum(1 for i in self._ids.tolist() if i not in done and fell.get(i, number) >= number)
        return missing

    def _writable(self) -> None:
        if not self._open:
            raise LedgerError("The ledger is closed. Open it again to write to it.")
        if self.sealed:
            raise LedgerError("The run is sealed: it is finished and takes no more entries. Use another --run-dir.")

    def _checked(
        self,
        rows: Sequence[ExampleEvent],
        x_adv: npt.ArrayLike,
        kept: npt.ArrayLike,
        turn: tuple[int, str, int],
        seconds: float,
    ) -> tuple[Batch, Ids, Images]:
        self._writable()
        kept_ids, pixels = _checked_kept(self.spec, kept, x_adv)
        if not rows:
            raise LedgerError("A batch holds at least one example; none was given.")
        batch = Batch(*turn, rows[0].id, len(rows), len(kept_ids), float(seconds))
        self._check_rows(rows, batch, kept_ids)
        return batch, kept_ids, pixels

    def _check_rows(self, rows: Sequence[ExampleEvent], batch: Batch, kept: Ids) -> None:
        where = f"round {batch.round} ({batch.attack}, restart {batch.restart})"
        if any(row[:3] != batch[:3] for row in rows):
            raise LedgerError(f"A batch of {where} holds an event of another round, attack or restart.")
        fault = first_fault(columns(rows), self.spec, self._ids)
        if fault is not None:
            raise LedgerError(f"Example {rows[fault[0]].id} cannot be recorded in {where}: {fault[1]}.")
        begun = self._turns.get(batch.round, (batch.attack, batch.restart))
        if begun != (batch.attack, batch.restart):
            raise LedgerError(
                f"A batch of {where} cannot be recorded: its round holds events of another attack or restart "
                f"({begun[0]}, restart {begun[1]})."
            )
        given = {row.id for row in rows}
        twice = given & self._recorded.get(batch.round, set())
        fallen = given & self._broken
        if twice or fallen:
            why = "recorded in this round before" if twice else "broken in an earlier round"
            raise LedgerError(f"Example {min(twice or fallen)} cannot be recorded in {where}: it was {why}.")
        lost = {row.id for row in rows if row.status == "broken" and batch.round > 0} - set(kept.tolist())
        stray = set(kept.tolist()) - given
        if lost or stray:
            why = "is broken, but its image was not given" if lost else "has an image, but no event in the batch"
            raise LedgerError(f"Example {min(lost or stray)} of {where} {why}.")


# ----------------------------------------------------------------------------------------------------- opening a folder


def _refuse_stranger(run_dir: Path) -> None:
    with writing(run_dir):
        found = {path.name for path in run_dir.iterdir()}
    own = {files.LOCK, draft_of(run_dir / files.SPEC).name}
    if files.SPEC not in found and found - own:
        raise LedgerError(
            f"{run_dir} holds files that are not a ledger ('{min(found - own)}' and {len(found - own) - 1} more). "
            "Give a new or an empty folder as --run-dir."
        )


def _lock(run_dir: Path, writer: int) -> files.RunLock:
    """Lock the run for its first writer, a journal for another; nobody gets in while one of the others still lives."""
    if writer:
        if not (run_dir / files.SPEC).exists():
            raise LedgerError(
                f"Process {writer} finds no run in {run_dir.absolute()}, where process 0 has begun one. Give a "
                "--run-dir on a disk that all processes share."
            )
        return files.RunLock.take(run_dir / files.journal_name(writer))
    make_folder(run_dir)
    _refuse_stranger(run_dir)
    lock = files.RunLock.take(run_dir / files.LOCK)
    try:
        for journal in files.journals(run_dir):
            files.RunLock.take(journal).release()
    except BaseException:
        lock.release()
        raise
    return lock


def _recorded(run_dir: Path, spec: Spec) -> Spec | None:
    """Return the recorded spec if it is of the same run, None where there is none."""
    recorded = read_spec(run_dir)
    changed = [] if recorded is None else differences(recorded, spec)
    if changed:
        raise LedgerError(f"{run_dir} belongs to another run: {'; '.join(changed)}. Use another --run-dir.")
    return recorded


def _claim(run_dir: Path, spec: Spec) -> Spec | None:
    """Write the spec of a new run, or return the recorded one if it is of the same run."""
    recorded = _recorded(run_dir, spec)
    if recorded is None:
        _refuse_stranger(run_dir)
        _write_json(run_dir / files.SPEC, spec.model_dump(mode="json"))
        return None
    for name in (files.INPUTS, files.FINDINGS, files.EVENTS_TABLE, files.ADVERSARIAL, files.RESULT):
        remove(draft_of(run_dir / name))
    return recorded


def _write_or_compare_inputs(run_dir: Path, spec: Spec, ids: Ids, labels: Ids, images: Images) -> None:
    path = run_dir / files.INPUTS
    if not path.exists():
        write_atomic(path, encode_inputs(ids, labels, images))
    found = read_labels(path, spec)
    for name, given, recorded in zip(("ids", "labels"), (ids, labels), found, strict=True):
        if not np.array_equal(given, recorded):
            raise LedgerError(f"{path} records other {name} than those given. Use another --run-dir.")


def _resume(
    run_dir: Path, spec: Spec, ids: Ids, lock: files.RunLock, sealed: bool, writer: int
) -> tuple[_Folder, list[ExampleEvent]]:
    """Read what is committed and cut off the rest: lines after the last commit, shards of no committed batch."""
    log, _ = read_events(run_dir, spec, ids)
    if sealed:
        index, keep = KeptIndex(spec.data.input_shape), frozenset[str]()
    else:
        index = index_shards(run_dir, spec, log)
        keep = frozenset(shard_name(batch.round, batch.first) for batch in log.batches if batch.kept)
    if writer == 0:
        _remove_shards(run_dir, keep)
    path = run_dir / files.journal_name(writer)
    journal = files.Journal.open(path, log.sizes.get(path, 0))
    return _Folder(run_dir, spec, lock, journal, index, writer == 0), log.rows


def _remove_shards(run_dir: Path, keep: frozenset[str]) -> None:
    folder = run_dir / files.SHARDS
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _SHARD.fullmatch(path.name) and path.name not in keep:
            remove(path)
    if not keep:
        with suppress(OSError):  # a stranger's file in it stays, and so does the folder
            folder.rmdir()


def differences(recorded: Spec, given: Spec) -> list[str]:
    """Return one phrase for each field that makes two specs different runs, naming the field and both values."""
    found: list[str] = []
    old, new = recorded.model_dump(mode="json"), given.model_dump(mode="json")
    for name in COMPARED:
        a, b = old, new
        for word in name.split("."):
            a, b = a[word], b[word]
        found += _compare(name, a, b)
    return found


def _compare(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        words = [*old, *(word for word in new if word not in old)]
        return [text for word in words for text in _compare(f"{name}.{word}", old.get(word), new.get(word))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [text for i, pair in enumerate(zip(old, new, strict=True)) for text in _compare(f"{name}[{i}]", *pair)]
    return [] if old == new else [f"{name} is recorded as {_short(old)} and given as {_short(new)}"]


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, dict) and "attack" in item for item in value):
        value = [item["attack"] for item in value]
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")


# --------------------------------------------------------------------------------------------------- checking arguments


def _checked_inputs(
    spec: Spec, ids: npt.ArrayLike, labels: npt.ArrayLike, images: npt.ArrayLike
) -> tuple[Ids, Ids, Images]:
    names, classes = np.asarray(ids, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    pixels = as_pixels(np.asarray(images))
    n = spec.data.n
    wanted = ((n,), (n,), (n, *spec.data.input_shape))
    found = (names.shape, classes.shape, pixels.shape)
    if found != wanted:
        raise LedgerError(f"The spec announces ids, labels and images of shapes {wanted}; {found} were given.")
    if len(np.unique(names)) != n or names.min() < 0:
        raise LedgerError("Example ids must be different from each other and not negative.")
    return names, classes, pixels


def _checked_kept(spec: Spec, kept: npt.ArrayLike, x_adv: npt.ArrayLike) -> tuple[Ids, Images]:
    ids, pixels = np.asarray(kept, dtype=np.int64), np.asarray(x_adv)
    shape = (len(ids), *spec.data.input_shape)
    if ids.ndim != 1 or len(np.unique(ids)) != len(ids):
        raise LedgerError("`kept` must be a list of different example ids.")
    if pixels.dtype != np.float32 or (pixels.shape != shape and len(ids)):
        raise LedgerError(f"`x_adv` must be float32 of shape {shape}; {pixels.dtype} {pixels.shape} was given.")
    return ids, pixels.reshape(shape)
