"""Accuracy against the size of the perturbation, up to one that must break everything."""

from __future__ import annotations

from torch import Tensor

from unmask.attacks import cosine_pgd
from unmask.contract import Model
from unmask.diagnostics.finding import Finding, Status
from unmask.streams import Streams
from unmask.threat import ThreatModel

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def eps_curve(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams, classes: int) -> Finding:
    """Attack images x (B, C, H, W), y (B,) at several eps and without a bound; accuracy must fall to chance.

    An unbounded attack that leaves accuracy well above 1/K means that the optimisation, not the bound, stops the attack
    (Athalye et al. 2018; Shafahi et al. 2018, Table 9). A larger eps counts what smaller ones broke.
    """
    free = threat.high - threat.low if threat.norm == "linf" else _whole_box(x, threat)
    sizes = sorted({min(share * threat.eps, free) for share in SHARES} | {free})
    accuracy, alive, forwards, backwards = [1.0], [True] * len(x), 0, 0
    for size in sizes:
        rows = [i for i, standing in enumerate(alive) if standing]
        if rows:
            result = cosine_pgd(
                model,
                x[rows],
                y[rows],
                threat=threat.with_eps(size),
                steps=20,
                generator=streams.child(size).select(_index(rows)),
            )
            forwards += int(result.forwards.sum())
            backwards += int(result.backwards.sum())
            for i, broken in zip(rows, result.broken.tolist(), strict=True):
                alive[i] = not broken
        accuracy.append(sum(alive) / len(x))
    limit = 1.5 / classes
    status: Status = "ok" if accuracy[-1] <= limit else "fail"
    return Finding(
        "eps_curve",
        status,
        f"Without a bound, {accuracy[-1]:.0%} of the images survive (chance: {1 / classes:.0%}).",
        {"eps": [0.0, *sizes], "accuracy": accuracy, "n": len(x), "attack": "cosine_pgd, margin, 20 steps, 1 start"},
        ""
        if status == "ok"
        else "The attack's optimisation fails on this model: figures at smaller eps are upper bounds only.",
        forwards,
        backwards,
    )


def _whole_box(x: Tensor, threat: ThreatModel) -> float:
    pixels = x[0].numel()
    return (threat.high - threat.low) * (pixels if threat.norm == "l1" else pixels**0.5)


def _index(rows: list[int]) -> Tensor:
    return Tensor(rows).long()
