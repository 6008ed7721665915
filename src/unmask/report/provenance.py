"""Where a run's figures come from, and the commands that check and repeat them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from unmask.ledger import PlanEntry, Run
from unmask.ledger.queries import cost
from unmask.report.words import NONE, clip, duration, first, number, value

MOST_ROWS = 60
WITH_WEIGHTS = " with weights "  # between model and weights in a recorded source

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Planned:
    """One attack of the plan with all its settings."""

    attack: str
    role: str
    restarts: int
    description: str
    settings: Pairs


@dataclass(frozen=True)
class Provenance:
    """Everything that decides a run's outcome, as titled lists, and its commands with what each one does."""

    groups: tuple[tuple[str, Pairs], ...]
    plan: tuple[Planned, ...]
    plan_hidden: int
    commands: Pairs


def provenance(run: Run) -> Provenance:
    """Return the origin of a run's figures, every text short enough to print."""
    entries, hidden = first(run.spec.plan, MOST_ROWS)
    return Provenance(
        groups=(
            ("Model", _model(run)),
            ("Images", _data(run)),
            ("Audit", _audit(run)),
            ("Cost", _cost(run)),
            ("Software", (("unmask", clip(run.spec.version)), *_pairs(run.spec.packages))),
            ("Hardware", _pairs(run.spec.hardware)),
        ),
        plan=tuple(map(_planned, entries)),
        plan_hidden=hidden,
        commands=_commands(run),
    )


def _model(run: Run) -> Pairs:
    model = run.spec.model
    parameters = NONE if model.parameters is None else number(model.parameters)
    return (
        ("name", clip(run.spec.name)),
        ("source", clip(model.source, 200) or "a Python object"),
        ("fingerprint", clip(model.fingerprint, 80)),
        ("parameters", parameters),
    )


def _data(run: Run) -> Pairs:
    data = run.spec.data
    return (
        ("data set", ", ".join(clip(word) for word in (data.name, data.split) if word)),
        ("images", number(data.n)),
        ("shape", " × ".join(str(length) for length in data.input_shape)),  # noqa: RUF001
        ("classes", value(data.classes)),
        ("fingerprint", clip(data.fingerprint, 80)),
    )


def _audit(run: Run) -> Pairs:
    spec, threat = run.spec, run.spec.threat
    return (
        ("threat model", f"{clip(threat)}, pixels in [{threat.low:g}, {threat.high:g}]"),
        *((("accuracy", f"top-{spec.top}"),) if spec.top > 1 else ()),
        ("claimed attack", clip(spec.claim) if spec.claim is not None else "none"),
        ("budget", clip(spec.budget)),
        ("seed", str(spec.seed)),
        ("batch size", number(spec.batch_size)),
        ("begun", clip(spec.created)),
        ("ledger", clip(run.path, 300) if run.path is not None else "kept in memory"),
    )


def _cost(run: Run) -> Pairs:
    attacks = cost(run)
    found = [
        ("attacks", f"{number(attacks.forwards)} forwards, {number(attacks.backwards)} backwards"),
        ("time in attacks", duration(attacks.seconds)),
    ]
    if run.result is not None:
        total = run.result
        found.append(("with checks", f"{number(total.forwards)} forwards, {number(total.backwards)} backwards"))
    return tuple(found)


def _pairs(found: dict[str, str]) -> Pairs:
    shown, hidden = first(list(found.items()), MOST_ROWS)
    rows = [(clip(name, 60), value(item)) for name, item in shown]
    return tuple(rows + ([("…", f"{hidden:,} more in the ledger")] if hidden else []))


def _planned(entry: PlanEntry) -> Planned:
    return Planned(
        clip(entry.attack, 60), entry.role, entry.restarts, clip(entry.description, 400), _pairs(entry.settings)
    )


def _commands(run: Run) -> Pairs:
    found = []
    # An audit of Python objects names no split, and its model has no source that a command could load.
    if run.path is not None:
        folder = shlex.quote(str(run.path))
        model = "" if run.spec.data.split else " --model MODULE:FUNCTION"
        found.append((f"unmask verify {folder}{model}", "predicts every stored break anew and checks its distance"))
        found.append((f"unmask report {folder}", "writes this page again"))
    again = _audit_command(run)
    if again:
        found.append((again, "repeats the audit from where the weights and images lie; the fingerprints must agree"))
    return tuple(found)


def _audit_command(run: Run) -> str:
    """Return the command that repeats the audit, or "" where model or images were given as Python objects, or `top`."""
    spec = run.spec
    source, _, weights = spec.model.source.partition(WITH_WEIGHTS)
    if not spec.data.split or spec.top > 1:
        return ""
    options = {
        "--weights": weights,
        "--data": spec.data.name,
        "--split": spec.data.split,
        "-n": str(spec.data.n),
        "--norm": spec.threat.norm,
        "--eps": spec.threat.eps,
        "--budget": spec.budget,
        "--claim": spec.claim or "none",
        "--seed": str(spec.seed),
        "--batch-size": str(spec.batch_size),
    }
    given = [word for name, text in options.items() if text for word in (name, text)]
    return clip(shlex.join(["unmask", "audit", source, *given]), 2000)
