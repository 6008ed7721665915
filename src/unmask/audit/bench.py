"""Attacks side by side: the figure of an attack on a model, figures to compare with, and who is ahead."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from unmask.errors import AuditError
from unmask.files import make_folder, write_atomic
from unmask.ledger import Run, queries
from unmask.ledger.schema import CLEAN, Count, PlainDict, Share, ThreatEntry


class Benched(BaseModel):
    """What an attack did to a model on n images, and all that says when two such figures compare.

    `robust_accuracy` is None where an image ended in an error. `evaluations`: forward and backward passes per image,
    the clean look included; `seconds`: wall time. `outside`: images that the attack brought back outside the ball, or
    with pixels that are none, and that therefore count as not broken; `errors`: images on which it raised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    attack: str
    settings: PlainDict = {}
    model: str
    model_fingerprint: str
    data: str
    data_fingerprint: str
    threat: ThreatEntry
    n: Count
    seed: int
    clean_accuracy: Share
    robust_accuracy: Share | None
    evaluations: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    outside: Count = 0
    errors: Count = 0
    version: str
    hardware: PlainDict
    command: str = ""

    @property
    def title(self) -> str:
        """The attack's name and settings, but not the hash of its code."""
        return " ".join([self.attack, *(f"{key}={value}" for key, value in self.settings.items() if key != "code")])

    def same_case(self, other: Benched) -> bool:
        """Whether both are of the same model and threat, so that they compare if their images are the same too."""
        return (self.model_fingerprint, self.threat) == (other.model_fingerprint, other.threat)

    def same_images(self, other: Benched) -> bool:
        """Whether both are of the same images."""
        return self.data_fingerprint == other.data_fingerprint


def figure_of(run: Run, command: str = "") -> Benched:
    """Return the figure of a recorded audit; its attack is the budget's name, or the one attack of its plan."""
    spec, spent, counts = run.spec, queries.cost(run), queries.counts(run)
    alone = spec.plan[-1] if spec.budget == "custom" else None
    returned = (run.events["attack"] != CLEAN) & (run.events["status"] != "error")
    outside = returned & np.isnan(run.events["margin"])
    return Benched(
        attack=alone.attack if alone else spec.budget,
        settings=dict(alone.settings) if alone else {},
        model=spec.name,
        model_fingerprint=spec.model.fingerprint,
        data=spec.data.name,
        data_fingerprint=spec.data.fingerprint,
        threat=spec.threat,
        n=spec.data.n,
        seed=spec.seed,
        clean_accuracy=queries.clean_accuracy(run),
        robust_accuracy=None if counts["error"] + counts["not_run"] else queries.robust_accuracy(run),
        evaluations=spent.evaluations / spec.data.n,
        seconds=spent.seconds,
        outside=len(np.unique(run.events["id"][outside])),
        errors=counts["error"],
        version=spec.version,
        hardware=spec.hardware,
        command=command,
    )


def closest(figure: Benched, reference: Iterable[Benched], title: str) -> Benched | None:
    """Return what the reference says of an attack on the figure's model and threat, on its images or else on others."""
    found = [other for other in reference if other.title == title and other.same_case(figure)]
    return min(found, key=lambda other: (not other.same_images(figure), abs(other.n - figure.n)), default=None)


class Standing(NamedTuple):
    """On how many of the models that two attacks share one of them is ahead of the other.

    `stronger`, `equal`: it leaves a lower accuracy, or the same; `cheaper`: it spends less; `dominated`: the other is
    no weaker and no dearer, and better in one of the two; `dominates`: the other way round.
    """

    of: int
    stronger: int
    equal: int
    cheaper: int
    dominates: int
    dominated: int


def standing(pairs: Sequence[tuple[Benched, Benched | None]]) -> Standing:
    """Compare figures with those of another attack. Pairs of different images, or with errors, are left out."""
    points = [
        ((ours.robust_accuracy, ours.evaluations), (theirs.robust_accuracy, theirs.evaluations))
        for ours, theirs in pairs
        if theirs is not None and ours.same_case(theirs) and ours.same_images(theirs)
        if ours.robust_accuracy is not None and theirs.robust_accuracy is not None
    ]
    return Standing(
        of=len(points),
        stronger=sum(a[0] < b[0] for a, b in points),
        equal=sum(a[0] == b[0] for a, b in points),
        cheaper=sum(a[1] < b[1] for a, b in points),
        dominates=sum(_dominates(a, b) for a, b in points),
        dominated=sum(_dominates(b, a) for a, b in points),
    )


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


_FIGURES = TypeAdapter(list[Benched])


def read_figures(path: Path) -> list[Benched]:
    """Return the figures of a reference file; raises AuditError for a file that is missing or holds something else."""
    try:
        return _FIGURES.validate_json(path.read_bytes())
    except OSError as error:
        raise AuditError(
            f"The reference {path} cannot be read: {error.strerror or error}. Make it: unmask bench-attack standard "
            f"--reference {path} --save-reference"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise AuditError(f"{path} holds no figures of attacks: {where}: {first['msg']}. Give another file.") from error


def write_figures(path: Path, figures: Iterable[Benched]) -> None:
    """Write a reference file; of several figures of one attack in one case the last stays. Raises OutputError."""
    kept = {_key(figure): figure for figure in figures}
    plain = [kept[key].model_dump(mode="json") for key in sorted(kept)]
    make_folder(path.parent)
    write_atomic(path, (json.dumps(plain, indent=1) + "\n").encode())


def _key(figure: Benched) -> tuple[str, ...]:
    threat, data = str(figure.threat), figure.data_fingerprint
    return figure.model, figure.title, str(figure.n), threat, str(figure.seed), figure.model_fingerprint, data
