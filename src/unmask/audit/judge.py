"""An attack's word is never trusted: every claimed break is predicted again before it becomes an event."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unmask.attacks.problem import AttackResult
from unmask.contract import Model, logits_of
from unmask.ledger import ExampleEvent
from unmask.losses import answers, cross_entropy, margin
from unmask.threat import ThreatModel


@torch.no_grad()
def predict(model: Model, x: Tensor, y: Tensor, ids: Iterable[int], top: int = 1) -> list[ExampleEvent]:
    """Return the events of the clean round: images x (B, C, H, W), labels y (B,), their ids.

    An image counts as broken where its label is not among the `top` likeliest classes.
    """
    logits = logits_of(model, x)
    columns = zip(
        ids,
        answers(logits, y, top).tolist(),
        y.tolist(),
        margin(logits, y, top=top).tolist(),
        cross_entropy(logits, y).tolist(),
        strict=True,
    )
    return [
        ExampleEvent(
            round=0,
            attack="clean",
            restart=0,
            id=example,
            status="broken" if predicted != label else "survived",
            margin=gap,
            loss=loss,
            predicted=predicted,
            distance=0.0,
            forwards=1,
            backwards=0,
            step=0 if predicted != label else None,
            seconds=0.0,
        )
        for example, predicted, label, gap, loss in columns
    ]


@torch.no_grad()
def judge(
    model: Model,
    x: Tensor,
    y: Tensor,
    ids: Iterable[int],
    threat: ThreatModel,
    found: AttackResult,
    turn: tuple[int, str, int],
    top: int = 1,
) -> tuple[list[ExampleEvent], Tensor]:
    """Return the events of a round (its number, attack and restart) and the images kept (B, C, H, W) on the CPU.

    Predicts every claimed break again in fp32, and counts no point outside ball or box, nor one whose label is among
    the `top` likeliest classes.
    """
    x_adv = found.x_adv.detach().float()
    inside = threat.contains(x_adv, x)
    distance = threat.distance(x_adv, x).tolist()
    claimed = (found.broken & inside).nonzero().flatten()
    gap, predicted = found.margin.double().clone(), y.clone()
    loss: dict[int, float] = {}
    if len(claimed):
        logits = logits_of(model, x_adv[claimed])
        predicted[claimed] = answers(logits, y[claimed], top)
        gap[claimed] = margin(logits, y[claimed], top=top).double()
        loss = dict(zip(claimed.tolist(), cross_entropy(logits, y[claimed]).tolist(), strict=True))
    gap[~inside] = torch.nan
    broken = (predicted != y).tolist()
    steps = (~found.trace.isnan()).sum(0).sub(1).clamp(min=0).tolist()
    checked = torch.zeros_like(found.forwards).index_fill(0, claimed, 1)
    columns = zip(
        ids,
        gap.tolist(),
        predicted.tolist(),
        (found.forwards + checked).tolist(),
        found.backwards.tolist(),
        strict=True,
    )
    events = [
        ExampleEvent(
            *turn,
            id=example,
            status="broken" if broken[i] else "survived",
            margin=margin_,
            loss=loss.get(i),
            predicted=class_,
            distance=distance[i],
            forwards=forwards,
            backwards=backwards,
            step=steps[i] if broken[i] and len(found.trace) else None,
            seconds=0.0,
        )
        for i, (example, margin_, class_, forwards, backwards) in enumerate(columns)
    ]
    return events, x_adv.cpu()


def failed(example: int, turn: tuple[int, str, int]) -> ExampleEvent:
    """Return the event of an image on which the attack raised."""
    nan = float("nan")
    return ExampleEvent(*turn, example, "error", nan, None, -1, nan, 0, 0, None, 0.0)
