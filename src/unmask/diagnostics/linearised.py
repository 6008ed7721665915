"""Do logits and gradients at the image foretell robustness? (Shafahi et al. 2018, Equation 4, Figures 1, 2 and 7.)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unmask.attacks.fgsm import fgsm
from unmask.attacks.hyperplane import DUAL_ORDERS
from unmask.attacks.problem import Problem, pose
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew
from unmask.errors import AuditError, DataError
from unmask.losses import Loss, cross_entropy, margin, predictions
from unmask.threat import ThreatModel

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BINS = 50
APART = 0.2
LEVEL = 0.05
FIGURES = ("logit_gap", "gradient_gap", "eps_linear", "cosine", "gradient_norm")


def linearised(sample: Sample, *, batch_size: int = 64, keep: Keep[Any] = anew) -> Finding:
    """Compare the accuracy that Equation 4 predicts with what FGSM leaves, on cross-entropy and margin (Table 1).

    Were its logits linear, an image of class y would withstand perturbations smaller than eps_linear = min over j != y
    of (z_y - z_j) / ||grad z_y - grad z_j||, by the dual of the threat's norm and without the pixel box. The evidence
    has per image eps_linear (not positive: misclassified; None: infinite), both gaps of the minimising class j, the
    cosine between grad z_y and grad z_j (None where one is zero) and the dual norm of grad z_y; a histogram of all
    logits; and a curve of both accuracies over 0.1 to 2 times eps. Misclassified images count as wrong.

    Warns where the accuracies lie more than 20 points apart, or the logits are level (no gradient gap) on more than 5%
    of the images. The former is no proof of a fake: the paper's honest MNIST network is 39 points apart. Costs 2
    forwards and K backwards per image, and for each that the model has right 2 forwards and a backward per FGSM and
    eps; memory does not grow with K. Raises DataError, ModelError or AuditError for unusable images, labels, logits or
    batch size.
    """
    parts, eps, sizes = batches(sample, batch_size), sample.threat.eps, _sizes(sample.threat)
    clean = keep("linearised, clean images", partial(_clean, parts))
    right = sample.select(sample.y.new_tensor(clean["right"], dtype=torch.int64))
    attacked = right.batches(batch_size)
    slopes = [keep(f"linearised, images {part.ids[0]} to {part.ids[-1]}", partial(_slopes, part)) for part in parts]
    runs = {
        name: [keep(f"linearised, {name}, eps {size}", partial(_fgsm, attacked, size, loss)) for size in sizes]
        for name, loss in (("fgsm, cross-entropy", cross_entropy), ("fgsm, margin", margin))
    }
    figures = {name: [value for part in slopes for value in part[name]] for name in FIGURES}
    foretold = [_share([least is None or least > size for least in figures["eps_linear"]]) for size in sizes]
    measured = {name: [run["survivors"] / len(sample) for run in each] for name, each in runs.items()}
    here = sizes.index(eps)
    predicted, empirical = foretold[here], {name: accuracy[here] for name, accuracy in measured.items()}
    level = _share([least is None for least in figures["eps_linear"]])
    status, summary, next_step = _judged(sample.threat, predicted, empirical, level)
    costs = [clean, *slopes, *(run for each in runs.values() for run in each)]
    return Finding(
        "linearised",
        status,
        summary,
        {
            "n": len(sample),
            "eps": eps,
            **figures,
            "logits": clean["logits"],
            "predicted": predicted,
            "empirical": empirical,
            "curve": {
                "eps": sizes,
                "predicted": foretold,
                "empirical_cross_entropy": measured["fgsm, cross-entropy"],
                "empirical_margin": measured["fgsm, margin"],
            },
        },
        next_step,
        forwards=sum(part["forwards"] for part in costs),
        backwards=sum(part["backwards"] for part in costs),
    )


def batches(sample: Sample, batch_size: int) -> list[Sample]:
    """Return the sample cut into parts of `batch_size` images. Raises DataError or AuditError where there is none."""
    if not len(sample):
        raise DataError("The sample holds no images; give one or more.")
    if batch_size < 1:
        raise AuditError(f"batch_size is {batch_size}; expected 1 or more images per batch.")
    return sample.batches(batch_size)


def _sizes(threat: ThreatModel) -> list[float]:
    most = threat.high - threat.low if threat.norm == "linf" else math.inf
    return sorted({min(share * threat.eps, most) for share in SHARES})


def _problem(part: Sample) -> Problem:
    return pose(part.model, part.x, part.y, threat=part.threat, generator=part.streams)


def _clean(parts: Sequence[Sample]) -> dict[str, Any]:
    """Return which rows of the sample the model has right, and a histogram of all logits."""
    logits = torch.cat([_problem(part).forward(part.x, graph=False)[1] for part in parts])
    right = predictions(logits) == torch.cat([part.y for part in parts])
    return {
        "right": right.nonzero().flatten().tolist(),
        "logits": _histogram(logits.double().cpu().flatten()),
        "forwards": len(logits),
        "backwards": 0,
    }


def _histogram(values: Tensor) -> dict[str, list[float]]:
    """Count values (V,) in bins of equal width between the smallest and the largest."""
    low, high = values.min().item(), values.max().item()
    room = 0.0 if low < high else max(1.0, abs(low)) / 2
    counts, edges = torch.histogram(values, BINS, range=(low - room, high + room))
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}


def _slopes(part: Sample) -> dict[str, Any]:
    """Return the FIGURES of every image of one batch, by one backward pass per class."""
    leaf, logits, _ = _problem(part).forward(part.x, graph=True)
    own, order = _gradient(logits, part.y, leaf), DUAL_ORDERS[part.threat.norm]
    length = _norm(own, 2)
    gaps, rises, cosines = [], [], []
    for place in range(logits.shape[1] - 1):
        wrong = place + (place >= part.y).long()
        other = _gradient(logits, wrong, leaf)
        gaps.append(-margin(logits.detach(), part.y, wrong).double())
        rises.append(_norm(own - other, order))
        cosines.append((own * other).sum(1) / (length * _norm(other, 2)))
    gap, rise, cosine = (torch.stack(columns, dim=1) for columns in (gaps, rises, cosines))
    chosen, eps_linear = _nearest(gap, rise)
    figures = {
        "logit_gap": gap.gather(1, chosen),
        "gradient_gap": rise.gather(1, chosen),
        "eps_linear": eps_linear,
        "cosine": cosine.gather(1, chosen).clamp(-1, 1),
        "gradient_norm": _norm(own, order),
    }
    return {
        **{name: _plain(values) for name, values in figures.items()},
        "forwards": len(part),
        "backwards": len(part) * logits.shape[1] * int(logits.requires_grad),
    }


def _nearest(gap: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """Return which class's boundary is nearest by Equation 4 (B, 1) and how far it is (B, 1); gap, rise (B, K - 1).

    Without a rise a class is infinitely far, or 0 where it is as likely as the true one or likelier. Of classes that
    are equally far, the likeliest is returned.
    """
    level = torch.where(gap > 0, torch.inf, 0.0).to(gap)
    away = torch.where(rise > 0, gap / rise, level)
    least = away.amin(1, keepdim=True)
    return torch.where(away == least, gap, torch.inf).argmin(1, keepdim=True), least


def _gradient(logits: Tensor, classes: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradients of each row's logit of its class: float64 (B, D), finite; the graph stays."""
    if not logits.requires_grad:
        return torch.zeros_like(leaf, dtype=torch.float64).flatten(1)
    chosen = logits.gather(1, classes.unsqueeze(1)).sum()
    (gradient,) = torch.autograd.grad(chosen, leaf, retain_graph=True, allow_unused=True)
    gradient = torch.zeros_like(leaf) if gradient is None else gradient
    return torch.nan_to_num(gradient, posinf=0.0, neginf=0.0).double().flatten(1)


def _norm(rows: Tensor, order: float) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=1)
    return norms


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.flatten().tolist()]


def _fgsm(parts: Sequence[Sample], size: float, loss: Loss) -> dict[str, Any]:
    results = [
        fgsm(part.model, part.x, part.y, threat=part.threat.with_eps(size), generator=part.streams, loss=loss)
        for part in parts
    ]
    return {
        "survivors": sum(int((~result.broken).sum()) for result in results),
        "forwards": sum(int(result.forwards.sum()) for result in results),
        "backwards": sum(int(result.backwards.sum()) for result in results),
    }


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _judged(
    threat: ThreatModel, predicted: float, empirical: dict[str, float], level: float
) -> tuple[Status, str, str]:
    on_cross_entropy, on_margin = empirical.values()
    apart = abs(predicted - min(empirical.values())) > APART
    summary = (
        f"Logits and gradients at the image predict {predicted:.1%} accuracy within {threat}; FGSM leaves "
        f"{on_cross_entropy:.1%} on the cross-entropy and {on_margin:.1%} on the margin."
    )
    if level > LEVEL:
        return (
            "warn",
            f"{summary} On {level:.0%} of the images the logits are level: no gradient tells how far an error is.",
            "Believe neither figure; attack without gradients (spsa, square), or through a smooth stand-in.",
        )
    if apart:
        return (
            "warn",
            f"{summary} The logits are not linear within the ball.",
            "Read no robustness off single gradients: trust attacks of many steps and restarts, and look at the loss "
            "surface.",
        )
    return "ok", summary, ""
