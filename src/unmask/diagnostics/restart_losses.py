"""Does the usual attack's outcome hang on where it starts? (Mosbach et al. 2018, histograms of the final loss.)"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.attacks.ascent import climb
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import pose
from unmask.attacks.start import uniform
from unmask.attacks.stepper import fixed
from unmask.contract import Model, logits_of
from unmask.diagnostics.finding import Finding
from unmask.losses import cross_entropy, predictions
from unmask.streams import Streams
from unmask.threat import ThreatModel


def restart_losses(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    streams: Streams,
    ids: Sequence[int],
    restarts: int = 15,
    steps: int = 40,
) -> Finding:
    """Run PGD from `restarts` starts on each image x (B, C, H, W), y (B,), never stopping early; note the final loss.

    At a loss of ln K or more the true class has at most 1/K of the probability, so the image is surely misclassified.
    Per image: "easily found" (half of the starts or more succeed), "depends on the restart" (a tenth), "many restarts
    needed" (fewer), "not found" (none).
    """
    count = len(x)
    each = torch.arange(count).repeat_interleave(restarts)
    starts = Streams(
        tuple(streams.child("restart", r).seeds[i] for i in range(count) for r in range(restarts)), streams.device
    )
    x_all, y_all = x[each], y[each]
    problem = pose(model, x_all, y_all, threat=threat, generator=starts)
    x_adv = climb(problem, start=uniform(), stepper=fixed(usual_step_size(threat, steps)), steps=steps)
    with torch.no_grad():
        logits = logits_of(model, x_adv)
    losses = cross_entropy(logits, y_all).view(count, restarts)
    hits = (predictions(logits) != y_all).view(count, restarts).float().mean(1).tolist()
    kinds = [_kind(share) for share in hits]
    fickle = sum(kind in ("depends on the restart", "many restarts needed") for kind in kinds)
    return Finding(
        "restart_losses",
        "warn" if fickle else "ok",
        f"On {fickle} of {count} images the success of PGD-{steps} hangs on its random start ({restarts} tried).",
        {
            "attack": f"pgd, {steps} steps, last iterate",
            "ids": list(ids),
            "losses": losses.tolist(),
            "guarantee": math.log(logits.shape[1]),
            "kinds": kinds,
            "restarts": restarts,
        },
        "Report the worst of many restarts, never a single one." if fickle else "",
        forwards=count * restarts * (steps + 1),
        backwards=count * restarts * steps,
    )


def _kind(share: float) -> str:
    if share >= 0.5:
        return "easily found"
    if share >= 0.1:
        return "depends on the restart"
    return "many restarts needed" if share > 0 else "not found"
