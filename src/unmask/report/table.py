"""One row per run: the summary that the report, the command line, a spreadsheet and a paper share."""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Iterable, Sequence
from dataclasses import astuple, dataclass, fields

from unmask.errors import LedgerError
from unmask.ledger import Run
from unmask.ledger.queries import (
    AttackRow,
    Status,
    claimed_accuracy,
    clean_accuracy,
    cost,
    counts,
    headline,
    robust_accuracy,
    wilson_interval,
)
from unmask.report.escaping import latex_text, markdown_text, spreadsheet_text
from unmask.report.words import NONE, bound, clip, distinct, interval, per_image, percent, points

COLUMNS = ("model", "verdict", "clean", "claimed", "measured", "95% interval", "gap", "images", "threat", "evaluations")
NUMERIC = (2, 3, 4, 5, 6, 7, 9)


@dataclass(frozen=True)
class SummaryRow:
    """What one run says. Accuracies are shares in [0, 1]; `gap` is claimed less measured.

    `refusal` says why there is no headline (the run is unfinished or holds errors): then `measured`, `low`, `high` and
    `gap` are None, and `clean` and `claimed` are only upper bounds. `evaluations`: passes per image.
    """

    name: str
    verdict: str
    clean: float
    claimed: float | None
    measured: float | None
    low: float | None
    high: float | None
    gap: float | None
    n: int
    threat: str
    evaluations: float
    refusal: str = ""


def refusal(run: Run) -> str:
    """Return why the run has no headline, or "" where it has one."""
    try:
        headline(run)
    except LedgerError as error:
        return str(error)
    if run.result is None:
        return (
            "There is no headline yet. Every round is recorded, but the run was not closed: run the same command again."
        )
    return ""


def summary_rows(runs: Sequence[Run]) -> list[SummaryRow]:
    """Return one row per run, in the order given; runs of the same name are numbered."""
    names = distinct([clip(run.spec.name, 60) or "unnamed" for run in runs])
    return [_summary(run, name) for run, name in zip(runs, names, strict=True)]


def _summary(run: Run, name: str) -> SummaryRow:
    n, claimed, why = len(run.ids), claimed_accuracy(run), refusal(run)
    whole, found = not why, counts(run)
    measured = robust_accuracy(run) if whole else None
    low, high = wilson_interval(found["survived"], n) if whole else (None, None)
    return SummaryRow(
        name=name,
        verdict=clip(run.result.verdict.label) if run.result is not None and whole else _state(found),
        clean=clean_accuracy(run),
        claimed=claimed,
        measured=measured,
        low=low,
        high=high,
        gap=claimed - measured if claimed is not None and measured is not None else None,
        n=n,
        threat=clip(run.spec.terms),
        evaluations=cost(run).evaluations / n,
        refusal=why,
    )


def _state(found: dict[Status, int]) -> str:
    return "errors" if found["error"] and not found["not_run"] else "unfinished"


def cells(rows: Sequence[SummaryRow]) -> list[tuple[str, ...]]:
    """Return the rows as text under `COLUMNS`, for a terminal's table; those of `NUMERIC` belong to the right."""
    return [
        (
            row.name,
            row.verdict,
            bound(row.clean) if row.refusal else percent(row.clean),
            bound(row.claimed) if row.refusal else percent(row.claimed),
            percent(row.measured),
            interval(row.low, row.high) if row.low is not None and row.high is not None else NONE,
            points(row.gap),
            f"{row.n:,}",
            row.threat,
            f"{row.evaluations:,.0f}",
        )
        for row in rows
    ]


def to_markdown(rows: Sequence[SummaryRow]) -> str:
    """Return the summary as a Markdown table; names are escaped, so that none can break it or become markup."""
    rule = ["---:" if column in NUMERIC else "---" for column in range(len(COLUMNS))]
    lines = [COLUMNS, rule, *([markdown_text(cell) for cell in row] for row in cells(rows))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(rows: Sequence[SummaryRow]) -> str:
    """Return the summary as CSV with full precision, one column per field of `SummaryRow`."""
    return _csv([field.name for field in fields(SummaryRow)], map(astuple, rows))


def to_latex(rows: Sequence[SummaryRow]) -> str:
    """Return the summary as a LaTeX table (booktabs); names are escaped, so that none can become a command."""
    return _latex(COLUMNS, NUMERIC, cells(rows))


def attacks_to_csv(rows: Sequence[AttackRow]) -> str:
    """Return an attack table as CSV with full precision, one column per field of `AttackRow`."""
    return _csv(AttackRow._fields, (row._replace(attack=clip(row.attack, 60)) for row in rows))


def attacks_to_latex(rows: Sequence[AttackRow], n: int) -> str:
    """Return the attack table of an audit of `n` images as a LaTeX table (booktabs), passes per image."""
    columns = ("attack", "restarts", "tried on", "broken", "accuracy after it", "forwards", "backwards")
    lines = [
        (
            clip(row.attack, 60),
            f"{row.restarts:,}",
            f"{row.attempted:,}",
            f"{row.broken:,}",
            percent(row.accuracy_after),
            per_image(row.forwards, n),
            per_image(row.backwards, n),
        )
        for row in rows
    ]
    return _latex(columns, range(1, len(columns)), lines)


def _csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([spreadsheet_text(value) if isinstance(value, str) else value for value in row])
    return stream.getvalue()


def _latex(columns: Sequence[str], numeric: Container[int], rows: Iterable[Sequence[str]]) -> str:
    layout = "".join("r" if column in numeric else "l" for column in range(len(columns)))
    lines = [f"{' & '.join(map(latex_text, row))} \\\\" for row in rows]
    head = f"{' & '.join(map(latex_text, columns))} \\\\"
    body = ["\\toprule", head, "\\midrule", *lines, "\\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{layout}}}", *body, "\\end{tabular}", ""])
