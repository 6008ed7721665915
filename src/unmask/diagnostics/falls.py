"""Which images an attack breaks, and after how many steps: what heatmaps and curves count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor

from unmask.attacks.ascent import ascend
from unmask.attacks.problem import AttackResult, pose
from unmask.attacks.start import Start, uniform
from unmask.attacks.stepper import fixed
from unmask.contract import check_images, check_labels, logits_of
from unmask.diagnostics.sample import Keep, Sample
from unmask.errors import AuditError, unknown
from unmask.losses import LOSSES, Loss, cross_entropy, predictions

BATCH_SIZE = 256
USUAL_STEPS = 40


class Clean(TypedDict):
    """Which images are classified correctly as they are, by how many classes, and what it took to see."""

    correct: list[bool]
    classes: int
    forwards: int


class Falls(TypedDict):
    """Per image the iterate at which it was first misclassified (0: the start; None: never), and passes in all."""

    fell: list[int | None]
    forwards: int
    backwards: int


def clean(sample: Sample, check: str, batch_size: int, keep: Keep[Any]) -> tuple[Clean, Sample]:
    """Return what a check sees without an attack, and the images classified correctly. One forward per image.

    Raises AuditError for a sample without images and for a batch size below 1; DataError or ModelError for unusable
    images, labels or logits.
    """
    if not len(sample):
        raise AuditError("There are no images to attack; give at least one.")
    at_least(1, batch_size=batch_size)
    check_images(sample.x, sample.threat.low, sample.threat.high)
    check_labels(sample.y, len(sample))
    part: Clean = keep(f"{check}, clean", lambda: _clean(sample, batch_size))
    rows = torch.tensor(part["correct"], device=sample.x.device).nonzero().flatten()
    return part, sample.select(rows)


def falls(sample: Sample, attack: Callable[[Sample], AttackResult], batch_size: int) -> Falls:
    """Run an attack of one start on the images of a sample, in batches, and note when each fell.

    Every claimed break is predicted again and held against ball and box, one forward each; what does not hold counts
    as standing.
    """
    fell: list[int | None] = []
    forwards = backwards = 0
    for part in sample.batches(batch_size):
        found = attack(part)
        held = confirmed(part, found).tolist()
        iterates = (~found.trace.isnan()).sum(0).sub(1).tolist()
        fell += [iterate if broken else None for iterate, broken in zip(iterates, held, strict=True)]
        forwards += int(found.forwards.sum()) + int(found.broken.sum())
        backwards += int(found.backwards.sum())
    return {"fell": fell, "forwards": forwards, "backwards": backwards}


def pgd_run(
    step_size: float, steps: int, *, start: Start | None = None, loss: Loss = cross_entropy
) -> Callable[[Sample], AttackResult]:
    """Return single-start PGD with steps of `step_size` pixels, from a uniform start, as `falls` takes it.

    Its first t iterates are those of a run of t steps: so one long run tells the outcome of every shorter one.
    """

    def attack(part: Sample) -> AttackResult:
        problem = pose(part.model, part.x, part.y, threat=part.threat, generator=part.streams, loss=loss)
        return ascend(problem, start=start or uniform(), stepper=fixed(step_size), steps=steps)

    return attack


@torch.no_grad()
def confirmed(sample: Sample, found: AttackResult) -> Tensor:
    """Say which images are broken indeed: (B,) bool. One forward per claimed break."""
    held = found.broken.clone()
    rows = found.broken.nonzero().flatten()
    if len(rows):
        x_adv, x, y = found.x_adv[rows].float(), sample.x[rows], sample.y[rows]
        wrong = predictions(logits_of(sample.model, x_adv)) != y
        held[rows] = wrong & sample.threat.contains(x_adv, x)
    return held


def standing(fell: list[int | None], steps: int) -> int:
    """Return how many images `steps` steps leave: those not misclassified at iterates 0 to `steps`."""
    return sum(iterate is None or iterate > steps for iterate in fell)


def still_falling(half: int, end: int, n: int) -> bool:
    """Say whether the last doubling of an attack's effort broke many of n images: more than two, and than 5%."""
    return half - end > max(2, n / 20)


def loss_of(name: str) -> Loss:
    """Return the loss of a name, or raise AuditError."""
    if name not in LOSSES:
        raise AuditError(unknown("loss", name, LOSSES))
    return LOSSES[name]


def at_least(least: int, **counts: int) -> None:
    """Raise AuditError unless every count is `least` or more."""
    for name, count in counts.items():
        if count < least:
            raise AuditError(f"{name} is {count}; expected {least} or more.")


def check_sizes(name: str, *sizes: float) -> None:
    """Raise AuditError unless there are sizes, all positive and finite."""
    if not sizes or not all(math.isfinite(size) and size > 0 for size in sizes):
        shown = ", ".join(f"{size:g}" for size in sizes) or "nothing"
        raise AuditError(f"{name}: got {shown}; expected positive, finite numbers.")


@torch.no_grad()
def _clean(sample: Sample, batch_size: int) -> Clean:
    correct: list[bool] = []
    for part in sample.batches(batch_size):
        logits = logits_of(sample.model, part.x)
        check_labels(part.y, *logits.shape)
        correct += (predictions(logits) == part.y).tolist()
    return {"correct": correct, "classes": logits.shape[1], "forwards": len(sample)}
