"""Do gradients reach the input, and do they survive the arithmetic?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unmask.attacks.hyperplane import DUAL_ORDERS
from unmask.attacks.problem import pose
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Sample
from unmask.losses import Loss, cross_entropy, margin

MANY, SOME = 0.5, 0.05
EXPLODING = 1e6


def gradients(sample: Sample, blocked: tuple[str, ...] = ()) -> Finding:
    """Count images whose input gradient is missing, zero, not finite or huge, on the cross-entropy and the margin.

    Taken at a random point of the ball. Zero for the margin: the model blocks gradients (Athalye et al. 2018). Zero
    for the cross-entropy alone: it underflows (Carlini & Wagner 2017); a module is also asked in float64, where it
    does not. Exploding: a step of eps would change the margin a million times as much as it is. `blocked`: the
    operations past which `unmask.attacks.straight_through` finds other gradients. Costs two forwards and two backwards
    per image, one of each more for a module.
    """
    here = replace(sample, x=sample.threat.uniform(sample.x, sample.streams.child("point")))
    entropy, gap = _slopes(here, cross_entropy), _slopes(here, margin)
    precise = _in_float64(here)
    rise = sample.threat.eps * torch.linalg.vector_norm(gap.slope.flatten(1), DUAL_ORDERS[sample.threat.norm], dim=1)
    exploding = _share((rise > EXPLODING * gap.values.abs()) & ~gap.zero)
    evidence: dict[str, object] = {
        "missing": gap.missing,
        "zero_share": _share(gap.zero),
        "zero_share_cross_entropy": _share(entropy.zero),
        "zero_share_cross_entropy_float64": None if precise is None else _share(precise.zero),
        "not_finite_share": _share(gap.broken | entropy.broken),
        "exploding_share": exploding,
        "blocked_by": list(blocked),
        "n": len(sample),
    }
    status, summary = _judged(entropy, gap, precise, exploding)
    advice = "" if status == "ok" else "Believe only attacks without gradients (spsa, square), or a smooth stand-in."
    if blocked:
        names = ", ".join(blocked)
        if status == "ok":
            status, summary = "warn", f"Part of the gradient is lost in {names}: the rest may mislead attacks."
        else:
            summary += f" Gradients that look straight through {names} do reach the input."
        advice = "Attack with gradients that look straight through these operations, as this audit does."
    elif status == "warn" and evidence["zero_share"] == 0:
        advice = "Attack a loss that does not underflow: the margin of the logits, as this audit does."
    taken = [slopes for slopes in (entropy, gap, precise) if slopes is not None]
    return Finding(
        "gradients",
        status,
        summary,
        evidence,
        advice,
        forwards=len(taken) * len(sample),
        backwards=sum(not slopes.missing for slopes in taken) * len(sample),
    )


class _Slopes(NamedTuple):
    """Input gradients (B, ...) and losses (B,); which rows are zero or not finite (B,); whether there are any."""

    slope: Tensor
    values: Tensor
    zero: Tensor
    broken: Tensor
    missing: bool


def _slopes(sample: Sample, loss: Loss) -> _Slopes:
    problem = pose(sample.model, sample.x, sample.y, threat=sample.threat, generator=sample.streams, loss=loss)
    leaf, _, values = problem.forward(sample.x, graph=True)
    slope = None
    if values.requires_grad:
        (slope,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    slope = torch.zeros_like(leaf) if slope is None else slope
    broken = ~torch.isfinite(slope).flatten(1).all(1)
    zero = (slope == 0).flatten(1).all(1)
    return _Slopes(torch.nan_to_num(slope), values.detach(), zero, broken, not values.requires_grad)


def _in_float64(sample: Sample) -> _Slopes | None:
    if not isinstance(sample.model, nn.Module):
        return None
    try:
        tensors = [*sample.model.named_parameters(), *sample.model.named_buffers()]
        wide = {name: tensor.double() for name, tensor in tensors if tensor.is_floating_point()}
        model = partial(functional_call, sample.model, wide)
        return _slopes(replace(sample, model=model, x=sample.x.double()), cross_entropy)
    except Exception:  # a module that makes float32 tensors of its own has no float64 form
        return None


def _judged(entropy: _Slopes, gap: _Slopes, precise: _Slopes | None, exploding: float) -> tuple[Status, str]:
    zero, underflowing = _share(gap.zero), _share(entropy.zero)
    broken = _share(gap.broken | entropy.broken)
    if gap.missing:
        return "fail", "The model gives no input gradients: gradient attacks cannot work on it."
    if max(broken, zero) > SOME:
        many: Status = "fail" if max(broken, zero) >= MANY else "warn"
        if broken > zero:
            return many, f"The input gradient is not finite on {broken:.0%} of images: gradient attacks stand still."
        return many, f"The input gradient is exactly zero on {zero:.0%} of images: gradient attacks stand still."
    if underflowing > SOME:
        beside = "" if precise is None else f", in float64 on {_share(precise.zero):.0%}"
        return "warn", (
            f"The cross-entropy's gradient underflows to zero on {underflowing:.0%} of images{beside}: the logits are "
            "too far apart."
        )
    if exploding > SOME:
        return "warn", f"The gradient explodes on {exploding:.0%} of images: it says nothing of what a step will do."
    return "ok", "Gradients reach the input."


def _share(rows: Tensor) -> float:
    return rows.float().mean().item()
