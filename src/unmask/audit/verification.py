"""Replaying a finished run: every recorded break is predicted again from its stored image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from unmask.audit.fingerprint import model_fingerprint
from unmask.contract import Model, logits_of
from unmask.errors import LedgerError
from unmask.ledger import Run, queries
from unmask.losses import answers, margin
from unmask.threat import ThreatModel


@dataclass(frozen=True)
class Replay:
    """How many breaks were replayed, and the ids of those that hold, fail, or differ by no more than float rounding."""

    breaks: int
    confirmed: tuple[int, ...]
    rounding: tuple[int, ...]
    refuted: dict[int, str]


@torch.no_grad()
def verify(run: Run, model: Model, batch_size: int = 256) -> Replay:
    """Predict every recorded break again and check it against ball and box.

    A prediction that is right again with a margin below 1e-5 of the largest logit counts as rounding: other batches
    and other hardware round differently. Raises LedgerError if `model` is not the audited one.
    """
    ids, labels, images = run.inputs()
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    found = model_fingerprint(model, pixels)
    if found != run.spec.model.fingerprint:
        raise LedgerError(
            f"The model's fingerprint is {found[:12]}, the run's is {run.spec.model.fingerprint[:12]}: this is not "
            f"the model that was audited ({run.spec.model.source}). Give the audited one by --model and --weights."
        )
    top = run.spec.top
    threat = ThreatModel.from_description(run.spec.threat.model_dump())
    place = {int(example): row for row, example in enumerate(ids)}
    broken = {example for example, status in queries.status_by_id(run).items() if status == "broken"}
    kept_ids, kept = run.adversarial()
    stored = {int(example): row for row, example in enumerate(kept_ids) if int(example) in broken}
    confirmed, rounding, refuted = [], [], {}
    for begin in range(0, len(broken), batch_size):
        part = sorted(broken)[begin : begin + batch_size]
        rows = torch.tensor([place[example] for example in part])
        x, y = pixels[rows], torch.from_numpy(labels)[rows]
        x_adv = torch.stack([torch.from_numpy(kept[stored[e]]) if e in stored else pixels[place[e]] for e in part])
        logits = logits_of(model, x_adv)
        inside, wrong = threat.contains(x_adv, x).tolist(), (answers(logits, y, top) != y).tolist()
        close = (margin(logits, y, top=top).abs() <= 1e-5 * logits.abs().amax(1)).tolist()
        for example, fits, breaks, near in zip(part, inside, wrong, close, strict=True):
            if not fits:
                refuted[example] = "the stored image lies outside ball or box"
            elif breaks:
                confirmed.append(example)
            elif near:
                rounding.append(example)
            else:
                refuted[example] = "the model classifies the stored image correctly" + (
                    f" (top-{top})" if top > 1 else ""
                )
    return Replay(len(broken), tuple(confirmed), tuple(rounding), refuted)
