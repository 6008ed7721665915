"""What a diagnosis found, beside the audit of the same model: the data behind its heatmap, surfaces and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from unmask.errors import LedgerError
from unmask.ledger import FindingEntry, Run
from unmask.ledger.diagnosis import Diagnosis
from unmask.report.figures.evidence import Evidence, Heatmap, Linearised, Surface
from unmask.report.words import clip, number

MOST_CELLS = 3_000
MOST_SURFACES = 6
MOST_POINTS = 61
BINS = 24

PARTS = {
    "logit_gap": "Logit gap",
    "gradient_gap": "Gradient gap",
    "eps_linear": "Linearised eps",
    "cosine": "Cosine of the gradients",
}

_Kind = TypeVar("_Kind", bound=Evidence)


@dataclass(frozen=True)
class Heat:
    """Accuracy (S, T) in [0, 1] by step size and number of steps, as texts; settings are places (row, column)."""

    step_sizes: tuple[str, ...]
    steps: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    usual: tuple[int, int] | None
    lowest: tuple[int, int] | None
    caption: str


@dataclass(frozen=True)
class Relief:
    """The loss (P, P) of one image on a slice of input space, rows from the greatest second coordinate to the least."""

    title: str
    names: tuple[str, str]
    axis: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    guarantee: float
    eps: float


@dataclass(frozen=True)
class Bins:
    """One histogram: the share of images in each bin between `edges`; `mark` is a value to mark."""

    title: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    mark: float | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Studies:
    """What the page draws of a model's diagnoses; each part is None or empty where no study (of that form) was made."""

    heat: Heat | None
    reliefs: tuple[Relief, ...]
    bins: tuple[Bins, ...]


def of_runs(runs: Sequence[Run], diagnoses: Sequence[Diagnosis]) -> list[list[FindingEntry]]:
    """Return for each run the findings of the diagnoses of its model.

    Raises LedgerError for a diagnosis of a model that none of the runs audited.
    """
    audited = {run.spec.model.fingerprint for run in runs}
    for diagnosis in diagnoses:
        if diagnosis.spec.model.fingerprint not in audited:
            raise LedgerError(
                f"{diagnosis.path} is a diagnosis of a model ('{clip(diagnosis.spec.name, 60)}') that none of the "
                "given runs audited. Give the folder of an audit of the same model beside it."
            )
    return [
        [finding for diagnosis in diagnoses if _same(run, diagnosis) for finding in diagnosis.findings.values()]
        for run in runs
    ]


def _same(run: Run, diagnosis: Diagnosis) -> bool:
    return run.spec.model.fingerprint == diagnosis.spec.model.fingerprint


def with_findings(run: Run, findings: Sequence[FindingEntry]) -> Run:
    """Return the run with a diagnosis's findings before its own: charts take the first of a name that has evidence."""
    return replace(run, findings=(*findings, *run.findings))


def studies(findings: Sequence[FindingEntry], norm: str) -> Studies:
    """Return what is to be drawn of a diagnosis's findings; evidence of another form is left out."""
    found = {finding.check: {**finding.evidence, "norm": norm} for finding in findings if finding.evidence}
    heat, surface, linear = (
        _read(Heatmap, found.get("heatmap")),
        _read(Surface, found.get("surface")),
        _read(Linearised, found.get("linearised")),
    )
    return Studies(
        None if heat is None or len(heat.steps) * len(heat.step_sizes) > MOST_CELLS else _heat(heat),
        () if surface is None or len(surface.axis) > MOST_POINTS else _reliefs(surface),
        () if linear is None else _bins(linear),
    )


def _read(kind: type[_Kind], evidence: Mapping[str, object] | None) -> _Kind | None:
    try:
        return None if evidence is None else kind.model_validate(dict(evidence))
    except ValidationError:
        return None


def _heat(evidence: Heatmap) -> Heat:
    low, high = (min(map(min, evidence.accuracy)), max(map(max, evidence.accuracy)))
    return Heat(
        tuple(map(number, evidence.step_sizes)),
        tuple(f"{steps:,}" for steps in evidence.steps),
        tuple(map(tuple, evidence.accuracy)),
        _place(evidence, evidence.usual),
        _place(evidence, evidence.lowest_at),
        f"From {low:.1%} to {high:.1%}, depending on the setting of one and the same attack.",
    )


def _place(evidence: Heatmap, setting: tuple[int, float] | None) -> tuple[int, int] | None:
    """Return the cell nearest to a setting (steps, step size)."""
    if setting is None:
        return None
    row = int(np.abs(np.array(evidence.step_sizes) - setting[1]).argmin())
    return row, int(np.abs(np.array(evidence.steps) - setting[0]).argmin())


def _reliefs(evidence: Surface) -> tuple[Relief, ...]:
    """Return the first surfaces that are whole: a loss is missing where it was infinite."""
    axis = tuple(map(_rounded, evidence.axis))
    names = (clip(evidence.directions[0], 24), clip(evidence.directions[1], 24))
    found = []
    for example, loss in zip(evidence.ids, evidence.loss, strict=True):
        whole = [[_rounded(value) for value in row if value is not None] for row in loss]
        if all(len(row) == len(axis) for row in whole):
            # The first direction runs along the columns, the second upwards.
            rows = tuple(zip(*whole, strict=True))[::-1]
            found.append(Relief(f"image {example}", names, axis, rows, evidence.guarantee, evidence.eps))
    return tuple(found[:MOST_SURFACES])


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _bins(evidence: Linearised) -> tuple[Bins, ...]:
    return tuple(
        _histogram(title, getattr(evidence, part), evidence.eps if part == "eps_linear" else None)
        for part, title in PARTS.items()
    )


def _histogram(title: str, values: Sequence[float | None], mark: float | None) -> Bins:
    """Return a histogram from the 1st to the 98th percentile; what lies beyond is counted in the outermost bins."""
    finite = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(finite):
        return Bins(title, (0.0, 1.0), (0.0,), mark, len(values))
    low, high = np.quantile(finite, [0.01, 0.98])
    low, high = (low, max(high, mark or high)) if high > low else (low - 0.5, low + 0.5)
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(finite, low, high), edges)
    shares = counts / len(values)
    return Bins(title, tuple(edges.tolist()), tuple(shares.tolist()), mark, len(values) - len(finite))
