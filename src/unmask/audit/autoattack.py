"""AutoAttack's suites as plans (Croce & Hein 2020), so that figures can be compared."""

from __future__ import annotations

from unmask.attacks import apgd, fab, square, targeted_apgd
from unmask.audit.plan import PlannedAttack
from unmask.losses import Loss, cross_entropy, dlr

TARGETS = 9
STEPS = 100
QUERIES = 5000


def standard(classes: int) -> tuple[PlannedAttack, ...]:
    """Return APGD-CE, APGD-T, FAB-T and Square, one run of each."""
    return (_apgd("apgd-ce", cross_entropy), _apgd_t(classes), _fab(TARGETS), _square())


def plus(classes: int) -> tuple[PlannedAttack, ...]:
    """Return five runs of APGD-CE, APGD-DLR, FAB and Square, then APGD-T and FAB-T."""
    return (
        _apgd("apgd-ce", cross_entropy, 5),
        _apgd("apgd-dlr", dlr, 5),
        _fab(0, 5),
        _square(),
        _apgd_t(classes),
        _fab(TARGETS),
    )


def rand(classes: int) -> tuple[PlannedAttack, ...]:
    """Return APGD-CE and APGD-DLR, five runs each: for models that answer at random (see `models.expectation`)."""
    return (_apgd("apgd-ce", cross_entropy, 5), _apgd("apgd-dlr", dlr, 5))


def _apgd(name: str, loss: Loss, restarts: int = 1) -> PlannedAttack:
    return PlannedAttack(
        name,
        lambda task: task.attack(apgd, steps=STEPS, loss=loss),
        restarts,
        settings={"loss": loss.__name__, "steps": STEPS},
        description=f"Auto-PGD, {STEPS} steps",
    )


def _apgd_t(classes: int) -> PlannedAttack:
    targets = min(TARGETS, classes - 1)
    return PlannedAttack(
        "apgd-t",
        lambda task: task.attack(targeted_apgd, steps=STEPS, targets=targets),
        settings={"loss": "dlr", "steps": STEPS, "targets": targets},
        description=f"Auto-PGD against {targets} classes in turn",
    )


def _fab(targets: int, restarts: int = 1) -> PlannedAttack:
    return PlannedAttack(
        "fab-t" if targets else "fab",
        lambda task: task.attack(fab, steps=STEPS, targets=targets),
        restarts,
        settings={"steps": STEPS, "targets": targets},
        description="the nearest boundary, by linearisation",
    )


def _square() -> PlannedAttack:
    return PlannedAttack(
        "square",
        lambda task: task.attack(square, queries=QUERIES),
        settings={"queries": QUERIES, "window": 0.8},
        description="random search by squares",
    )
