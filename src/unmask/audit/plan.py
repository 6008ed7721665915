"""What an audit runs: the claim's attack, and the attacks of a budget with the schedule that decides among them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from unmask.attacks import fgsm, pgd
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import AttackResult
from unmask.contract import Model
from unmask.errors import AuditError, unknown
from unmask.streams import Streams
from unmask.threat import ThreatModel, parse_eps

CLAIM = "pgd-40"


@dataclass(frozen=True)
class Task:
    """What one attack is given in one round: survivors x (B, C, H, W) with labels y (B,), and what is known of them.

    `best` (B, C, H, W) is the best point found so far, the image itself where there is none; `donors` (B, D, C, H, W)
    are perturbations that broke other images of the class, nearest first (D = 0 where there are none). `restart`
    counts how often this attack has been run on these images before. An image falls once its label is not among the
    `top` likeliest classes.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: ThreatModel
    streams: Streams
    restart: int
    best: Tensor
    donors: Tensor
    top: int = 1

    def attack(self, attack: Callable[..., AttackResult], **settings: Any) -> AttackResult:
        """Run one of `unmask.attacks` on the task's images with its randomness.

        Raises AuditError for an attack that cannot be told that more than the likeliest class counts, where more does.
        """
        if self.top > 1:
            _refuse_without_top(attack, self.top)
            settings = {"top": self.top, **settings}
        return attack(self.model, self.x, self.y, threat=self.threat, generator=self.streams, **settings)


@dataclass(frozen=True)
class PlannedAttack:
    """One attack of a plan: `run(task)` once per restart, on survivors.

    `settings` says for the record what `run` does; two plans with equal settings must do the same. `cost(restart)` is
    the most evaluations that the run may take per image, for adaptive schedules; `donors` is how many of `task.donors`
    it needs, `gradients` says that it makes backward passes.
    """

    name: str
    run: Callable[[Task], AttackResult]
    restarts: int = 1
    role: Literal["claim", "search"] = "search"
    settings: Mapping[str, object] = field(default_factory=dict)
    description: str = ""
    cost: Callable[[int], int] = lambda restart: 1
    donors: int = 0
    gradients: bool = True


def claim_attack(name: str, threat: ThreatModel) -> PlannedAttack:
    """Return the usual attack whose figure is the claim: "fgsm", "pgd-N", or "pgd-N-step-SIZE"; one random start.

    N steps of 4 eps / (3 N) unless a size is given (in pixels: 0.01, 2/255): at eps 0.3 "pgd-40" is the 40 steps of
    0.01 of the MNIST literature. Raises AuditError for another name.
    """
    if name == "fgsm":
        return PlannedAttack(
            name,
            lambda task: task.attack(fgsm),
            role="claim",
            settings={"steps": 1},
            description="one step of eps on the cross-entropy, from the clean image",
            cost=lambda restart: 3,
        )
    match = re.fullmatch(r"pgd-([1-9]\d{0,5})(?:-step-(.+))?", name)
    if match is None:
        known = ["pgd-40", "pgd-20", "pgd-10", "fgsm"]
        raise AuditError(unknown("claim", name, known) + " Any pgd-N or pgd-N-step-SIZE will do.")
    steps = int(match[1])
    step_size = float(parse_eps(match[2])) if match[2] else usual_step_size(threat, steps)

    return PlannedAttack(
        name,
        lambda task: task.attack(pgd, steps=steps, step_size=step_size),
        role="claim",
        settings={"loss": "cross_entropy", "steps": steps, "step_size": round(step_size, 6), "start": "uniform"},
        description=f"{steps} steps of {step_size:.4g} on the cross-entropy, one random start",
        cost=lambda restart: 2 * steps + 1,
    )


def _refuse_without_top(attack: Callable[..., AttackResult], top: int) -> None:
    try:
        inspect.signature(attack).bind_partial(top=top)
    except TypeError as error:
        name = getattr(attack, "__name__", type(attack).__name__)
        raise AuditError(
            f"{name} takes no `top`: it would stop at the first misclassification, where the label may still be among "
            f"the {top} likeliest classes. Take pgd, targeted_pgd or transfer."
        ) from error


def check_plan(plan: Sequence[PlannedAttack]) -> None:
    """Raise AuditError for two attacks of one name, or one that is called "clean"."""
    names = [attack.name for attack in plan]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or "clean" in names:
        raise AuditError(f"Two attacks of the plan are called '{twice or 'clean'}'; give each a name of its own.")
