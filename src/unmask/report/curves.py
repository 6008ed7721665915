"""The data behind the charts: what each one draws, or the sentence that says why there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unmask.ledger import FindingEntry, Round, Run
from unmask.ledger.queries import accuracy_by_step
from unmask.report.words import clip, first, number, percent

MOST_POINTS = 300
MOST_CURVES = 12
MOST_PANELS = 12
BINS = 24
AUTOATTACK = {"apgd-ce", "apgd-t", "fab-t", "square"}
"""The attacks of AutoAttack's standard suite (Croce & Hein 2020)."""

_Floats = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """One line: points (x, accuracy) from left to right, and what each point is."""

    name: str
    x: tuple[float, ...]
    accuracy: tuple[float, ...]
    points: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """A labelled point of a chart, or a labelled vertical line where `accuracy` is None."""

    x: float
    text: str
    accuracy: float | None = None


@dataclass(frozen=True)
class Plot:
    """A chart of accuracy against `x_title`; with no curves, `missing` says why.

    `stepwise`: the accuracy stays until the next point. `log`: the x axis is logarithmic, so x > 0.
    """

    title: str
    x_title: str
    caption: str = ""
    curves: tuple[Curve, ...] = ()
    marks: tuple[Mark, ...] = ()
    stepwise: bool = False
    log: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Histogram:
    """The final losses of one image over restarts: the share (BINS,) of restarts in each bin."""

    example: int
    kind: str
    shares: tuple[float, ...]
    reached: int
    restarts: int


@dataclass(frozen=True)
class Histograms:
    """Final losses of several images on one axis; `guarantee` is the loss that surely misclassifies."""

    attack: str
    edges: tuple[float, ...]
    guarantee: float
    panels: tuple[Histogram, ...]
    hidden: int
    missing: str = ""


# ------------------------------------------------------------------------------------------------- from the events


def accuracy_by_round(run: Run) -> _Floats:
    """Return the accuracy (R,) after each round: the share of all examples that no round up to it broke."""
    broken = run.events["round"][run.events["status"] == "broken"]
    return 1 - np.cumsum(np.bincount(_turns(run, broken), minlength=len(run.rounds))) / len(run.ids)


def cost_plot(run: Run) -> Plot:
    """Return accuracy against the passes spent per image so far, one point per round; the usual attacks are marked."""
    plot = Plot(
        "Accuracy against cost",
        "evaluations per image, all attacks so far",
        "An evaluation is one forward or one backward pass of one image.",
        stepwise=True,
        log=True,
    )
    rounds, accuracy = run.rounds, accuracy_by_round(run)
    spent = (_per_round(run, "forwards") + _per_round(run, "backwards")).cumsum() / len(run.ids)
    shown = [i for i in range(len(rounds)) if spent[i] > 0]
    if len(shown) < 2:
        return replace(plot, missing="Fewer than two rounds recorded how many passes they cost.")
    kept = _telling(shown, accuracy[shown])
    x, y = spent[kept], accuracy[kept]
    names = tuple(_round_name(rounds[i]) for i in kept)
    curve = Curve("all attacks", tuple(x.tolist()), tuple(y.tolist()), names)
    ends = {clip(run.spec.claim, 24): _end_of_claim(run, rounds), "AutoAttack": _end_of_autoattack(rounds)}
    marks = tuple(
        Mark(float(spent[at]), f"after {name}", float(accuracy[at]))
        for name, at in ends.items()
        if at is not None and spent[at] > 0
    )
    return replace(plot, curves=(curve,), marks=marks)


def _end_of_claim(run: Run, rounds: Sequence[Round]) -> int | None:
    claims = [place for place, entry in enumerate(rounds) if entry.role == "claim" and entry.attack == run.spec.claim]
    return claims[-1] if claims else None


def _end_of_autoattack(rounds: Sequence[Round]) -> int | None:
    """Return the round with which AutoAttack's standard suite was through, None where it was not run whole."""
    last = {entry.attack: place for place, entry in enumerate(rounds)}
    return max(last[name] for name in AUTOATTACK) if last.keys() >= AUTOATTACK else None


def _per_round(run: Run, column: str) -> _Floats:
    weights = run.events[column].astype(np.float64)
    return np.bincount(_turns(run, run.events["round"]), weights, len(run.rounds)).astype(np.float64)


def _turns(run: Run, numbers: _Numbers) -> _Numbers:
    return np.searchsorted([entry.round for entry in run.rounds], numbers)


def _round_name(entry: Round) -> str:
    return clip(entry.attack, 40) if entry.restart == 0 else f"{clip(entry.attack, 40)}, restart {entry.restart + 1}"


def step_plot(run: Run) -> Plot:
    """Return accuracy against the number of steps of the claimed attack."""
    plot = Plot("Accuracy against steps", "steps of the claimed attack", stepwise=True)
    if run.spec.claim is None:
        return replace(plot, missing="This audit was made without a claimed attack.")
    accuracy = accuracy_by_step(run, run.spec.claim)
    if len(accuracy) < 2:
        return replace(plot, missing="The claimed attack recorded no steps.")
    kept = _telling(range(len(accuracy)), accuracy)
    curve = _numbered(clip(run.spec.claim, 40), kept, accuracy, "step")
    caption = f"What {clip(run.spec.claim, 40)} would have claimed, had it been stopped earlier."
    return replace(plot, x_title=f"steps of {clip(run.spec.claim, 40)}", caption=caption, curves=(curve,))


def restart_plot(run: Run) -> Plot:
    """Return accuracy against restarts, one curve per attack that starts more than once."""
    plot = Plot(
        "Accuracy against restarts",
        "restarts",
        "Each attack goes on from what was left when it began; only its own breaks count.",
        stepwise=True,
    )
    fell_in = run.events["round"][run.events["status"] == "broken"]
    curves = []
    for entry in run.spec.plan:
        mine = [turn for turn in run.rounds if turn.attack == entry.attack and turn.role != "clean"]
        if len({turn.restart for turn in mine}) < 2:
            continue
        before = int((fell_in < mine[0].round).sum())
        own = np.zeros(max(turn.restart for turn in mine) + 2, dtype=np.int64)
        for turn in mine:
            own[turn.restart + 1] += int((fell_in == turn.round).sum())
        accuracy = 1 - (before + np.cumsum(own)) / len(run.ids)
        kept = _telling(range(len(accuracy)), accuracy)
        curves.append(_numbered(clip(entry.attack, 40), kept, accuracy, "after restart"))
    if not curves:
        return replace(plot, missing="No attack of this audit was started more than once.")
    whose = f"restarts of {curves[0].name}" if len(curves) == 1 else plot.x_title
    return replace(plot, x_title=whose, curves=tuple(curves[:MOST_CURVES]))


def _numbered(name: str, kept: Sequence[int], accuracy: _Floats, word: str) -> Curve:
    return Curve(
        name,
        tuple(float(i) for i in kept),
        tuple(accuracy[list(kept)].tolist()),
        tuple(f"{word} {i}" for i in kept),
    )


def _telling(positions: Iterable[int], accuracy: _Floats) -> list[int]:
    """Return the positions that draw the same line: the ends and each change, thinned evenly where there are many."""
    found = list(positions)
    last = len(found) - 1
    changes = [i for i in range(len(found)) if i in (0, last) or accuracy[i] != accuracy[i - 1]]
    if len(found) <= MOST_POINTS:
        return found
    if len(changes) > MOST_POINTS:
        chosen = np.linspace(0, len(changes) - 1, MOST_POINTS).round().astype(int)
        changes = [changes[i] for i in chosen]
    return [found[i] for i in changes]


# ------------------------------------------------------------------------------------------------- from the findings


def eps_plot(run: Run) -> Plot:
    """Return accuracy against eps from the finding `eps_curve`."""
    plot = Plot("Accuracy against eps", f"eps ({run.spec.threat.norm})")
    finding = _finding(run, "eps_curve")
    if finding is None:
        return replace(plot, missing="This run holds no eps curve: its check was not made.")
    eps, accuracy = _numbers(finding.evidence.get("eps")), _numbers(finding.evidence.get("accuracy"))
    if len(eps) < 2 or len(eps) != len(accuracy) or sorted(eps) != eps or not all(0 <= a <= 1 for a in accuracy):
        return replace(plot, missing="The eps curve of this run is not of the expected form.")
    caption = (
        f"{clip(finding.evidence.get('attack', 'one attack'), 80)}, on {_count(finding.evidence.get('n'))} images."
    )
    if eps[-1] > 3 * eps[-2] > 0:
        caption += f" Beyond the axis: at eps {number(eps[-1])}, {percent(accuracy[-1])} survive."
        eps, accuracy = eps[:-1], accuracy[:-1]
    curve = Curve("", tuple(eps), tuple(accuracy), tuple(f"eps {number(value)}" for value in eps))
    at = _as_float(run.spec.threat.eps)
    marks = (Mark(at, "audited"),) if at is not None and eps[0] <= at <= eps[-1] else ()
    return replace(plot, caption=caption, curves=(curve,), marks=marks)


def study_plots(run: Run) -> tuple[Plot, ...]:
    """Return accuracy against steps and restarts of PGD from the findings `step_curve` and `restart_curve`."""
    plots = (_study_plot(_finding(run, f"{word}_curve"), f"{word}s") for word in ("step", "restart"))
    return tuple(plot for plot in plots if plot is not None)


def _study_plot(finding: FindingEntry | None, counted: str) -> Plot | None:
    if finding is None:
        return None
    x, accuracy = _numbers(finding.evidence.get(counted)), _numbers(finding.evidence.get("accuracy"))
    if len(x) < 2 or len(x) != len(accuracy) or sorted(x) != x or x[0] <= 0 or not all(0 <= a <= 1 for a in accuracy):
        return None
    caption = f"{clip(finding.evidence.get('attack', 'PGD'), 80)}, on {_count(finding.evidence.get('n'))} images."
    curve = Curve("", tuple(x), tuple(accuracy), tuple(f"{counted[:-1]} {number(at)}" for at in x))
    return Plot(f"PGD against {counted}", f"{counted} of PGD", caption, (curve,), log=True)


def histograms(run: Run) -> Histograms:
    """Return the final losses over restarts from the finding `restart_losses`."""
    nothing = Histograms("", (), 0.0, (), 0)
    finding = _finding(run, "restart_losses")
    if finding is None:
        return replace(nothing, missing="This run holds no losses over restarts: their check was not made.")
    evidence = finding.evidence
    ids, losses, kinds = (_listed(evidence.get(name)) for name in ("ids", "losses", "kinds"))
    guarantee = _numbers([evidence.get("guarantee")])
    shown, hidden = first(list(zip(ids, losses, kinds, strict=False)), MOST_PANELS)
    rows = [(int(i), _finite(row), clip(kind, 40)) for i, row, kind in shown if _is_number(i) and _finite(row)]
    if not guarantee or not rows:
        return replace(nothing, missing="The losses over restarts of this run are not of the expected form.")
    edges = _edges([row for _, row, _ in rows], guarantee[0])
    panels = tuple(_histogram(i, row, kind, edges, guarantee[0]) for i, row, kind in rows)
    attack = clip(evidence.get("attack", "one attack"), 80)
    return Histograms(attack, tuple(edges.tolist()), guarantee[0], panels, hidden)


def _edges(losses: Sequence[Sequence[float]], guarantee: float) -> _Floats:
    low, high = min(map(min, losses)), max(max(map(max, losses)), guarantee)
    # A margin on the right keeps the line of the guarantee off the frame.
    return np.linspace(min(low, 0.0), high + 0.04 * ((high - low) or 1.0), BINS + 1)


def _histogram(example: int, losses: Sequence[float], kind: str, edges: _Floats, guarantee: float) -> Histogram:
    counts, _ = np.histogram(losses, edges)
    reached = sum(loss >= guarantee for loss in losses)
    return Histogram(example, kind, tuple((counts / len(losses)).tolist()), reached, len(losses))


def _finding(run: Run, check: str) -> FindingEntry | None:
    return next((finding for finding in run.findings if finding.check == check and finding.evidence), None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _numbers(value: Any) -> list[float]:
    """Return a list of numbers as floats; an empty list for anything else."""
    found = _listed(value)
    return [float(item) for item in found] if all(map(_is_number, found)) else []


def _finite(value: Any) -> list[float]:
    return [float(item) for item in _listed(value) if _is_number(item)]


def _count(value: Any) -> str:
    return number(value) if _is_number(value) else "an unknown number of"


def _as_float(eps: str) -> float | None:
    """Return an exact eps such as "8/255" as a float, None for a text of another form."""
    above, _, below = eps.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------ several runs


def together(plots: Sequence[Plot], names: Sequence[str]) -> Plot:
    """Return one plot with a curve per run, named after it; runs whose plot has no curve are left out."""
    found = [(plot.curves[0], name) for plot, name in zip(plots, names, strict=True) if plot.curves]
    if len(found) < 2:
        return replace(plots[0], curves=(), marks=(), missing="Fewer than two of these runs hold the data.")
    curves = tuple(replace(curve, name=name) for curve, name in found[:MOST_CURVES])
    return replace(plots[0], caption=plots[0].caption if plots[0].log else "", curves=curves, marks=())
