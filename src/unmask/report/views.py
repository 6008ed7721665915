"""What the page says of each run, in words and short texts, ready for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.ledger import FindingEntry, Run
from unmask.ledger.queries import AttackRow, attack_table, counts, headline, robust_accuracy
from unmask.report import curves
from unmask.report.curves import Histograms, Plot
from unmask.report.gallery import Gallery, gallery
from unmask.report.provenance import Provenance, provenance
from unmask.report.studies import Studies, studies, with_findings
from unmask.report.table import SummaryRow
from unmask.report.words import NONE, bound, clip, duration, first, interval, per_image, percent, value

MOST_FINDINGS = 60
MOST_ATTACKS = 100
MOST_EVIDENCE = 16

_SERIOUS_FIRST = ("fail", "warn", "ok", "not_applicable")
_TONES = {"robust": "ok", "masked": "fail", "not robust": "fail", "inconclusive": "warn"}


@dataclass(frozen=True)
class Bar:
    """One bar of a run: its share in [0, 1], with the 95% interval where there is one."""

    kind: str
    label: str
    share: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FindingView:
    """One finding; `evidence` as pairs of name and text."""

    check: str
    status: str
    summary: str
    next_step: str
    cost: str
    evidence: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AttackView:
    """One line of the attack table; `accuracy` in [0, 1] is the cumulative worst case, `row` what it is made from."""

    attack: str
    role: str
    restarts: int
    attempted: str
    broken: str
    share_broken: str
    accuracy: float
    forwards: str
    backwards: str
    seconds: str
    errors: int
    row: AttackRow


@dataclass(frozen=True)
class RunView:
    """All that the page shows of one run."""

    summary: SummaryRow
    anchor: str
    tone: str
    reasons: tuple[str, ...]
    change: tuple[str, ...]
    sentence: str
    context: tuple[str, ...]
    bars: tuple[Bar, ...]
    bars_text: str
    findings: tuple[FindingView, ...]
    findings_hidden: int
    attacks: tuple[AttackView, ...]
    attacks_hidden: int
    plots: tuple[Plot, ...]
    histograms: Histograms
    gallery: Gallery
    studies: Studies
    study_findings: tuple[FindingView, ...]
    study_plots: tuple[Plot, ...]
    provenance: Provenance
    tally: tuple[str, ...]

    @property
    def statuses(self) -> list[str]:
        """The statuses of the findings shown, the serious ones first."""
        return list(dict.fromkeys(finding.status for finding in self.findings))


def run_view(run: Run, summary: SummaryRow, anchor: str, studied: Sequence[FindingEntry] = ()) -> RunView:
    """Return what the page shows of one run, with the findings of its model's diagnoses.

    Raises LedgerError for a damaged file of images.
    """
    told = with_findings(run, studied)
    findings, findings_hidden = first(sorted(run.findings, key=lambda entry: _rank(entry.status)), MOST_FINDINGS)
    attacks, attacks_hidden = _attacks(run)
    bars = _bars(run, summary)
    verdict = run.result.verdict if run.result is not None and not summary.refusal else None
    return RunView(
        summary=summary,
        anchor=anchor,
        tone=_TONES.get(verdict.label, "") if verdict is not None else "unfinished",
        reasons=_clipped(verdict.reasons) if verdict is not None else (),
        change=_clipped(verdict.change) if verdict is not None else (),
        sentence="" if summary.refusal else clip(headline(run), 600),
        context=_context(run, summary),
        bars=tuple(bars),
        bars_text=_bars_text(bars),
        findings=tuple(map(_finding, findings)),
        findings_hidden=findings_hidden,
        attacks=attacks,
        attacks_hidden=attacks_hidden,
        plots=(curves.cost_plot(run), curves.eps_plot(told), curves.step_plot(run), curves.restart_plot(run)),
        histograms=curves.histograms(told),
        gallery=gallery(run),
        studies=studies(studied, run.spec.threat.norm),
        study_findings=tuple(map(_finding, sorted(studied[:MOST_FINDINGS], key=lambda entry: _rank(entry.status)))),
        study_plots=curves.study_plots(told),
        provenance=provenance(run),
        tally=_tally(run),
    )


def incomparable(runs: Sequence[Run]) -> list[str]:
    """Return one phrase for each thing in which the runs differ so that their figures are not of one kind."""
    found: dict[str, set[str | None]] = {
        "threat models": {run.spec.threat.model_dump_json() for run in runs},
        "images": {run.spec.data.fingerprint for run in runs},
        "answers that count as right": {str(run.spec.top) for run in runs},
        "claimed attacks": {run.spec.claim for run in runs},
        "budgets": {run.spec.budget for run in runs},
    }
    return [what for what, kinds in found.items() if len(kinds) > 1]


# ------------------------------------------------------------------------------------------------------- head and bars


def _clipped(sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(clip(sentence, 400) for sentence in sentences[:12])


def _rank(status: str) -> int:
    return _SERIOUS_FIRST.index(status)


def _context(run: Run, summary: SummaryRow) -> tuple[str, ...]:
    data, found = run.spec.data, counts(run)
    through = found["broken"] + found["survived"]
    covered = "every one" if through == summary.n else f"{through:,} of them"
    return (
        clip(run.spec.terms),
        f"{summary.n:,} images of {clip(data.name, 40)}" + (f" ({clip(data.split, 20)})" if data.split else ""),
        f"{covered} through the whole plan",
        f"budget {clip(run.spec.budget, 30)}",
        f"seed {run.spec.seed}",
    )


def _tally(run: Run) -> tuple[str, ...]:
    words = {"broken": "broken", "survived": "survived", "error": "in error", "not_run": "not run"}
    return tuple(f"{count:,} {words[status]}" for status, count in counts(run).items() if count)


def _bars(run: Run, summary: SummaryRow) -> list[Bar]:
    said = bound if summary.refusal else percent
    bars = [Bar("clean", "Clean", summary.clean, said(summary.clean))]
    if summary.claimed is not None:
        bars.append(Bar("claimed", "Claimed", summary.claimed, said(summary.claimed)))
    if summary.measured is None:
        share = robust_accuracy(run)
        return [*bars, Bar("bound", "Measured", share, said(share))]
    return [*bars, Bar("measured", "Measured", summary.measured, said(summary.measured), summary.low, summary.high)]


def _bars_text(bars: Sequence[Bar]) -> str:
    """Return what the bars show in one sentence, for those who do not see them."""
    parts = [f"{bar.label.lower()} accuracy {bar.text}" for bar in bars]
    last = bars[-1]
    if last.low is not None and last.high is not None:
        parts.append(f"95% interval {interval(last.low, last.high)}")
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------------------- panels


def _finding(entry: FindingEntry) -> FindingView:
    evidence, hidden = first(list(entry.evidence.items()), MOST_EVIDENCE)
    pairs = [(clip(name, 40).replace("_", " "), value(item)) for name, item in evidence]
    if hidden:
        pairs.append(("…", f"{hidden:,} more in the ledger"))
    passes = entry.forwards + entry.backwards
    return FindingView(
        clip(entry.check, 60).replace("_", " "),
        entry.status,
        clip(entry.summary, 600),
        clip(entry.next_step, 600),
        f"{passes:,} evaluations" if passes else "",
        tuple(pairs),
    )


def _attacks(run: Run) -> tuple[tuple[AttackView, ...], int]:
    rows, hidden = first(attack_table(run), MOST_ATTACKS)
    n = len(run.ids)
    return tuple(
        AttackView(
            clip(row.attack, 60),
            row.role,
            row.restarts,
            f"{row.attempted:,}",
            f"{row.broken:,}",
            percent(row.broken / row.attempted) if row.attempted else NONE,
            row.accuracy_after,
            per_image(row.forwards, n),
            per_image(row.backwards, n),
            duration(row.seconds),
            row.errors,
            row,
        )
        for row in rows
    ), hidden
