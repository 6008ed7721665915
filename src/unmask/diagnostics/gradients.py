"""Do gradients reach the input at all?"""

from __future__ import annotations

from torch import Tensor

from unmask.attacks.problem import input_gradient, pose
from unmask.contract import Model
from unmask.diagnostics.finding import Finding, Status
from unmask.losses import cross_entropy, margin
from unmask.streams import Streams
from unmask.threat import ThreatModel


def gradients(
    model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, blocked: tuple[str, ...] = ()
) -> Finding:
    """Count images x (B, C, H, W), y (B,) whose input gradient is missing or exactly zero, on cross-entropy and margin.

    Taken at a random point of the ball. Zero for the margin: the model blocks gradients (Athalye et al. 2018). Zero
    for the cross-entropy alone: it underflows, and attacks on it stand still (Carlini & Wagner 2017). `blocked`: the
    operations past which `unmask.attacks.straight_through` finds gradients.
    """
    here = threat.uniform(x, streams)
    shares: dict[str, float] = {}
    missing = False
    for name, loss in (("cross_entropy", cross_entropy), ("margin", margin)):
        leaf, _, values = pose(model, x, y, threat=threat, generator=streams, loss=loss).forward(here, graph=True)
        missing = missing or not values.requires_grad
        shares[name] = (input_gradient(values, leaf).flatten(1) == 0).all(1).float().mean().item()
    status: Status = "fail" if shares["margin"] >= 0.5 else "warn" if max(shares.values()) > 0.05 else "ok"
    if missing:
        summary = "The model gives no input gradients: gradient attacks cannot work on it."
    elif status == "ok":
        summary = "Gradients reach the input."
    elif shares["margin"] >= shares["cross_entropy"]:
        summary = (
            f"The input gradient is exactly zero on {shares['margin']:.0%} of images: gradient attacks stand still."
        )
    else:
        summary = f"The cross-entropy's gradient underflows to zero on {shares['cross_entropy']:.0%} of images."
    advice = "" if status == "ok" else "Believe only attacks without gradients (spsa, square), or a smooth stand-in."
    if blocked and status != "ok":
        summary += f" Gradients that look straight through {', '.join(blocked)} do reach the input."
        advice = "Attack with gradients that look straight through these operations, as this audit does."
    return Finding(
        "gradients",
        status,
        summary,
        {
            "missing": missing,
            "zero_share": shares["margin"],
            "zero_share_cross_entropy": shares["cross_entropy"],
            "blocked_by": list(blocked),
            "n": len(x),
        },
        advice,
        forwards=2 * len(x),
        backwards=0 if missing else 2 * len(x),
    )
