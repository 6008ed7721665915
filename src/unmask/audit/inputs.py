"""What an audit or a diagnosis is given, checked before anything is attacked."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.contract import Model, check_images, check_labels, check_not_probabilities, logits_of
from unmask.errors import AuditError, DataError, UnmaskError
from unmask.threat import ThreatModel


def checked_images(
    x: Tensor, y: Tensor, ids: Tensor | None, threat: ThreatModel, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return images x (B, C, H, W) as float32 and their ids (B,) on the CPU, counted from 0 unless given.

    Raises DataError for unusable or no images, labels or ids, AuditError for a batch size below 1.
    """
    check_images(x, threat.low, threat.high)
    check_labels(y, len(x))
    if not len(x):
        raise DataError("There are no images to attack; give at least one.")
    if batch_size < 1:
        raise AuditError(f"The batch size is {batch_size}; expected 1 or more.")
    x, ids = x.detach().float(), torch.arange(len(x)) if ids is None else ids.cpu()
    if ids.shape != y.shape or len(ids.unique()) != len(ids):
        raise DataError(
            f"Example ids came as shape {tuple(ids.shape)}; expected {len(y)} different numbers, one per image."
        )
    return x, ids


@torch.no_grad()
def first_look(model: Model, x: Tensor, y: Tensor, batch_size: int) -> int:
    """Return the number of classes, after checking the model's answers to the first batch.

    Raises ModelError for answers that are not finite logits, DataError for labels that are none of the classes,
    AuditError where the model cannot be run on the images.
    """
    try:
        logits = logits_of(model, x[:batch_size])
    except UnmaskError:
        raise
    except Exception as error:
        raise AuditError(
            f"The model cannot be run on images of shape {tuple(x[:batch_size].shape)}: {type(error).__name__}: "
            f"{error}. Check that model and data belong together, and that they are on the same device."
        ) from error
    check_not_probabilities(logits)
    check_labels(y, len(x), logits.shape[1])
    return logits.shape[1]
