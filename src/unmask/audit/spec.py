"""What an audit records before it begins: everything that decides its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from torch import Tensor

from unmask.audit.budgets import Plan
from unmask.audit.fingerprint import model_fingerprint, parameter_count, tensors_fingerprint
from unmask.contract import Model
from unmask.environment import code_version, hardware, packages
from unmask.ledger import Spec
from unmask.threat import ThreatModel


@dataclass(frozen=True)
class Subject:
    """How the audited model and data are called in records and reports."""

    name: str = "model"
    source: str = ""
    data: str = "images"
    split: str = ""
    classes: tuple[str, ...] = ()


def describe(
    model: Model, x: Tensor, y: Tensor, ids: Tensor, threat: ThreatModel, classes: int, subject: Subject
) -> dict[str, object]:
    """Return what a record says of the model, of the data and of the threat."""
    return {
        "model": {
            "source": subject.source or subject.name,
            "fingerprint": model_fingerprint(model, x),
            "parameters": parameter_count(model),
        },
        "data": {
            "name": subject.data,
            "split": subject.split,
            "n": len(x),
            "fingerprint": tensors_fingerprint(x, y, ids),
            "classes": list(subject.classes or map(str, range(classes))),
            "input_shape": list(x.shape[1:]),
        },
        "threat": threat.describe(),
    }


def make_spec(
    model: Model,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    threat: ThreatModel,
    plan: Plan,
    seed: int,
    batch_size: int,
    classes: int,
    subject: Subject,
    top: int = 1,
) -> Spec:
    """Return the record's first page: model, data, threat, plan, seed and what else decides the outcome."""
    claims = [attack.name for attack in plan.attacks if attack.role == "claim"]
    return Spec.model_validate(
        {
            "name": subject.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **describe(model, x, y, ids, threat, classes, subject),
            "plan": [{"attack": "clean", "restarts": 1, "role": "clean", "description": "no perturbation"}]
            + [
                {
                    "attack": attack.name,
                    "restarts": attack.restarts,
                    "role": attack.role,
                    "settings": dict(attack.settings),
                    "description": attack.description,
                }
                for attack in plan.attacks
            ],
            "claim": claims[0] if claims else None,
            "schedule": plan.schedule.describe().model_dump(),
            "budget": plan.budget,
            "top": top,
            "seed": seed,
            "batch_size": batch_size,
            "version": code_version(),
            "packages": packages(),
            "hardware": hardware(x.device),
        }
    )
