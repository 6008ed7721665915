"""Does the usual attack's outcome hang on where it starts? (Mosbach et al. 2018, histograms of the final loss.)"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor

from unmask.attacks.ascent import climb
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import pose
from unmask.attacks.start import uniform
from unmask.attacks.stepper import fixed
from unmask.contract import logits_of
from unmask.diagnostics.falls import BATCH_SIZE, USUAL_STEPS, at_least, check_sizes
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.sample import Keep, Sample, anew
from unmask.errors import AuditError
from unmask.losses import cross_entropy, predictions
from unmask.streams import Streams


class _Runs(TypedDict):
    losses: list[float]
    hits: int
    classes: int
    forwards: int
    backwards: int


def restart_losses(
    sample: Sample,
    *,
    restarts: int = 15,
    steps: int = USUAL_STEPS,
    step_size: float | None = None,
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Run PGD on the cross-entropy from `restarts` starts on each image, never stopping early; note the final loss.

    At a loss of ln K or more the true class has at most 1/K of the probability, so the image is surely misclassified.
    Per image: "easily found" (half of the starts or more succeed), "depends on the restart" (a tenth), "many restarts
    needed" (fewer), "not found" (none). `step_size` is in pixels (None: 4 eps / (3 steps)). Up to `batch_size` starts
    of an image run together. `watch` is told how many of how many images are done; each is a part that `keep` keeps.

    Raises AuditError for unusable restarts, steps, step size or batch size, and for a sample without images.
    """
    at_least(1, restarts=restarts, steps=steps, batch_size=batch_size)
    if step_size is not None:
        check_sizes("Step size in pixels", step_size)
    size = usual_step_size(sample.threat, steps) if step_size is None else step_size
    if not len(sample):
        raise AuditError("There are no images to attack; give at least one.")
    found: list[_Runs] = []
    for row, example in enumerate(sample.ids):
        image = sample.select(torch.tensor([row], device=sample.x.device))
        name = f"restart_losses, image {example}, {restarts} restarts, {steps} steps of {size!r}"
        found.append(keep(name, partial(_runs, image, restarts, steps, size, batch_size)))
        if watch is not None:
            watch(row + 1, len(sample))
    kinds = [_kind(part["hits"] / restarts) for part in found]
    fickle = sum(kind in ("depends on the restart", "many restarts needed") for kind in kinds)
    return Finding(
        "restart_losses",
        "warn" if fickle else "ok",
        f"On {fickle} of {len(sample)} images the success of PGD-{steps} hangs on its random start ({restarts} tried).",
        {
            "attack": f"pgd, {steps} steps, last iterate",
            "ids": list(sample.ids),
            "losses": [part["losses"] for part in found],
            "guarantee": math.log(found[0]["classes"]),
            "kinds": kinds,
            "restarts": restarts,
            "steps": steps,
            "step_size": size,
        },
        "Report the worst of many restarts, never a single one." if fickle else "",
        sum(part["forwards"] for part in found),
        sum(part["backwards"] for part in found),
    )


def _runs(image: Sample, restarts: int, steps: int, step_size: float, batch_size: int) -> _Runs:
    """Run all starts of one image."""
    seeds = tuple(
        seed for r in range(restarts) for seed in image.streams.child("restart_losses").child("restart", r).seeds
    )
    losses: list[float] = []
    hits = backwards = classes = 0
    for begin in range(0, restarts, batch_size):
        starts = Streams(seeds[begin : begin + batch_size], image.streams.device)
        final, differentiated = _last(image, starts, steps, step_size)
        y = image.y.expand(len(starts))
        losses += cross_entropy(final, y).clamp(max=torch.finfo(final.dtype).max).tolist()
        hits += int((predictions(final) != y).sum())
        backwards, classes = backwards + differentiated, final.shape[1]
    forwards = restarts * (steps + 1)
    return {"losses": losses, "hits": hits, "classes": classes, "forwards": forwards, "backwards": backwards}


def _last(image: Sample, starts: Streams, steps: int, step_size: float) -> tuple[Tensor, int]:
    """Return the logits (R, K) where PGD ends from every start, and the backward passes that it took."""
    backwards = 0

    def loss(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
        nonlocal backwards
        values = cross_entropy(logits, y, target)
        backwards += len(values) * values.requires_grad
        return values

    x, y = image.x.expand(len(starts), *image.x.shape[1:]), image.y.expand(len(starts))
    problem = pose(image.model, x, y, threat=image.threat, generator=starts, loss=loss)
    x_adv = climb(problem, start=uniform(), stepper=fixed(step_size), steps=steps)
    with torch.no_grad():
        return logits_of(image.model, x_adv), backwards


def _kind(share: float) -> str:
    if share >= 0.5:
        return "easily found"
    if share >= 0.1:
        return "depends on the restart"
    return "many restarts needed" if share > 0 else "not found"
