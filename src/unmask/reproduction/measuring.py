"""One figure of one model: every kind of measure as an audit or a diagnosis with a record of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.attacks import pgd, transfer
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import AttackResult
from unmask.attacks.start import clean, uniform
from unmask.attacks.targets import least_likely_target, random_target
from unmask.audit import Subject, audit, diagnose
from unmask.audit.plan import PlannedAttack, Task
from unmask.contract import Model
from unmask.data import DataSet
from unmask.errors import RecipeError
from unmask.ledger import load_run, queries
from unmask.ledger.diagnosis import is_diagnosis, load_diagnosis
from unmask.losses import LOSSES
from unmask.recipes.tables import Accuracy, Attacked, Audited, Measure, Predicted, describe
from unmask.threat import Linf, ThreatModel

STARTS = {"uniform": uniform, "clean": clean}


@dataclass(frozen=True)
class Measured:
    """A share of n images in [0, 1] with its 95% interval, the evaluations it took, and where its record lies."""

    share: float
    interval: tuple[float, float]
    n: int
    evaluations: int
    run: Path


@dataclass(frozen=True)
class Target:
    """What is measured: a model, the images of both splits, the threat, and the surrogate of black-box attacks."""

    model: Model
    images: dict[str, DataSet]
    threat: ThreatModel
    subject: Subject
    surrogate: Model | None = None


def measure(measure: Measure, target: Target, *, n: int, seed: int, run_dir: Path) -> Measured:
    """Measure on the first `n` images (of the test split, unless the measure says otherwise), or read what is recorded.

    The record is kept in `run_dir`, where the same call goes on after an interruption. Raises RecipeError for a
    transferred attack without a surrogate, and whatever audit and diagnosis raise.
    """
    split = measure.split if isinstance(measure, Accuracy) else "test"
    images = target.images[split].first(min(n, len(target.images[split])))
    threat = Linf(measure.eps) if isinstance(measure, Attacked) and measure.eps is not None else target.threat
    subject = Subject(target.subject.name, target.subject.source, images.name, images.split, images.classes)
    if isinstance(measure, Predicted):
        diagnose(
            target.model,
            images.pixels(),
            images.labels,
            threat,
            studies=("linearised",),
            seed=seed,
            run_dir=run_dir,
            ids=images.ids,
            subject=subject,
        )
        return recorded(run_dir)
    result = audit(
        target.model,
        images.pixels(),
        images.labels,
        threat,
        budget=_budget(measure, threat, target.surrogate),
        claim=None,
        seed=seed,
        run_dir=run_dir,
        ids=images.ids,
        subject=subject,
        diagnostics=False,
        top=getattr(measure, "top", 1),
    )
    if result.headline is None:
        reasons = "; ".join(sorted(set(result.errors.values()))[:3])
        raise RecipeError(f"{subject.name}: {len(result.errors)} images ended in an error ({reasons}). See {run_dir}.")
    return recorded(run_dir)


def recorded(run_dir: Path) -> Measured:
    """Return what a finished measurement's record says; raises LedgerError where there is none."""
    if is_diagnosis(run_dir):
        found = load_diagnosis(run_dir)
        finding = found.findings["linearised"]
        share, n, cost = float(finding.evidence["predicted"]), found.spec.data.n, finding.forwards + finding.backwards
    else:
        run = load_run(run_dir)
        share, n, cost = queries.robust_accuracy(run), run.spec.data.n, queries.cost(run).evaluations
    return Measured(share, queries.wilson_interval(round(share * n), n), n, cost, run_dir)


def _budget(
    measure: Accuracy | Attacked | Audited, threat: ThreatModel, surrogate: Model | None
) -> str | tuple[PlannedAttack, ...]:
    if isinstance(measure, Accuracy):
        return ()
    if isinstance(measure, Audited):
        return measure.budget
    return (planned(measure, threat, surrogate),)


def planned(measure: Attacked, threat: ThreatModel, surrogate: Model | None = None) -> PlannedAttack:
    """Return the attack of a measure, as an audit runs it: best iterates, stopped once broken, restarts on survivors.

    Raises RecipeError for a transferred attack without a surrogate.
    """
    if measure.transferred and surrogate is None:
        raise RecipeError("A transferred attack needs a surrogate: name one in the recipe (surrogate='...').")
    step_size = usual_step_size(threat, measure.steps) if measure.step_size is None else measure.step_size
    loss, start = LOSSES[measure.loss], STARTS[measure.start]()
    crafted: dict[str, Any] = {
        "surrogates": (surrogate,),
        "momentum": 0.0,
        "diversity": 0.0,
        "check_every": measure.steps,
    }
    attack = partial(transfer, **crafted) if measure.transferred else pgd

    def run(task: Task) -> AttackResult:
        aimed = _target(surrogate if measure.transferred else task.model, measure, task)
        settings = {"steps": measure.steps, "step_size": step_size, "loss": loss, "start": start, "top": measure.top}
        return task.attack(attack, target=aimed, **settings)

    where = "crafted on the surrogate" if measure.transferred else "on the model itself"
    return PlannedAttack(
        _name(measure),
        run,
        restarts=measure.restarts,
        settings={**describe(measure), "step_size": step_size},
        description=f"{measure.steps} steps of {step_size:.4g} on the {measure.loss.replace('_', '-')}, {where}",
        cost=lambda restart: 2 * measure.steps + 2,
    )


def _target(model: Model | None, measure: Attacked, task: Task) -> Tensor | None:
    if measure.aim == "untargeted" or model is None:
        return None
    if measure.aim == "least_likely":
        return least_likely_target(model, task.x, task.y)
    with torch.no_grad():
        classes = model(task.x[:1]).shape[1]
    return random_target(task.y, classes, task.streams.child("target"))


def _name(measure: Attacked) -> str:
    words = ["transfer" if measure.transferred else "pgd", str(measure.steps)]
    words += [measure.loss.replace("_", "-")] if measure.loss != "cross_entropy" else []
    return "-".join(words + ([measure.aim.replace("_", "-")] if measure.aim != "untargeted" else []))
