"""AutoAttack's suites as plans (Croce & Hein 2020), so that figures can be compared."""

from __future__ import annotations

from unmask.attacks import apgd, fab, square, targeted_apgd
from unmask.attacks.problem import AttackResult
from unmask.audit.plan import PlannedAttack, Task
from unmask.losses import Loss, cross_entropy, dlr

TARGETS = 9
STEPS = 100
QUERIES = 5000


def standard(classes: int) -> tuple[PlannedAttack, ...]:
    """Return APGD-CE, APGD-T, FAB-T and Square, one run of each."""
    return (_apgd("apgd-ce", cross_entropy), _apgd_t(classes), _fab(TARGETS), _square(1))


def plus(classes: int) -> tuple[PlannedAttack, ...]:
    """Return five runs of APGD-CE, APGD-DLR, FAB and Square, then APGD-T and FAB-T."""
    return (
        _apgd("apgd-ce", cross_entropy, 5),
        _apgd("apgd-dlr", dlr, 5),
        _fab(0, 5),
        _square(1),
        _apgd_t(classes),
        _fab(TARGETS),
    )


def rand(classes: int) -> tuple[PlannedAttack, ...]:
    """Return APGD-CE and APGD-DLR, five runs each: for models that answer at random (see `models.expectation`)."""
    return (_apgd("apgd-ce", cross_entropy, 5), _apgd("apgd-dlr", dlr, 5))


def _apgd(name: str, loss: Loss, restarts: int = 1) -> PlannedAttack:
    def run(task: Task) -> AttackResult:
        return apgd(task.model, task.x, task.y, threat=task.threat, steps=STEPS, loss=loss, generator=task.streams)

    settings = {"loss": loss.__name__, "steps": STEPS}
    return PlannedAttack(name, run, restarts, settings=settings, description=f"Auto-PGD, {STEPS} steps")


def _apgd_t(classes: int) -> PlannedAttack:
    targets = min(TARGETS, classes - 1)

    def run(task: Task) -> AttackResult:
        return targeted_apgd(
            task.model, task.x, task.y, threat=task.threat, steps=STEPS, targets=targets, generator=task.streams
        )

    settings = {"loss": "dlr", "steps": STEPS, "targets": targets}
    return PlannedAttack("apgd-t", run, settings=settings, description=f"Auto-PGD against {targets} classes in turn")


def _fab(targets: int, restarts: int = 1) -> PlannedAttack:
    def run(task: Task) -> AttackResult:
        return fab(task.model, task.x, task.y, threat=task.threat, steps=STEPS, targets=targets, generator=task.streams)

    name = "fab-t" if targets else "fab"
    settings = {"steps": STEPS, "targets": targets}
    return PlannedAttack(name, run, restarts, settings=settings, description="the nearest boundary, by linearisation")


def _square(restarts: int) -> PlannedAttack:
    def run(task: Task) -> AttackResult:
        return square(task.model, task.x, task.y, threat=task.threat, queries=QUERIES, generator=task.streams)

    settings = {"queries": QUERIES, "window": 0.8}
    return PlannedAttack("square", run, restarts, settings=settings, description="random search by squares")
