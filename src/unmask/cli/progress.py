"""Progress bars of long work: on stderr, silent where stderr is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unmask.audit import AuditProgress, DiagnosisProgress
from unmask.cli.console import err
from unmask.training import Progress as TrainingProgress


@contextmanager
def bar(title: str, visible: bool = True) -> Iterator[Bar]:
    """Show one progress bar while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not (visible and err.is_terminal)) as progress:
        yield Bar(progress, title)


class Bar:
    """A progress bar that training and audit can be watched with."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, note="")

    def training(self, now: TrainingProgress) -> None:
        """Show a step of a training."""
        losses = ", ".join(f"{name} {value:.3f}" for name, value in now.losses.items())
        note = f"epoch {now.epoch + 1}, {losses}, {now.images_per_second:,.0f} images/s"
        self._progress.update(self._task, completed=now.step, total=now.steps, note=note)

    def audit(self, now: AuditProgress) -> None:
        """Show a batch of an audit, with the running upper bound."""
        note = f"{now.attack} #{now.restart + 1}: at most {now.upper_bound:.1%} robust"
        if now.rounds is None:
            note = f"round {now.round}, {note}, {now.evaluations:,} evaluations"
            self._progress.update(self._task, completed=now.done, total=now.of, note=note)
        else:
            share = now.done / max(now.of, 1)
            self._progress.update(self._task, completed=now.round + share, total=now.rounds, note=note)

    def diagnosis(self, now: DiagnosisProgress) -> None:
        """Show a part of a study."""
        note = f"{now.study} ({now.number + 1} of {now.studies}): {now.done:,} of {now.of:,}"
        done = now.number + now.done / max(now.of, 1)
        self._progress.update(self._task, completed=done, total=now.studies, note=note)

    def part(self, done: int, total: int, what: str) -> None:
        """Show which part of a plan is being made."""
        self._progress.update(self._task, completed=done, total=total, note=f"{done + 1:,} of {total:,}: {what}")

    def count(self, done: int, total: int) -> None:
        """Show a plain count."""
        self._progress.update(self._task, completed=done, total=total, note=f"{done:,} of {total:,}")
