"""How large the smallest adversarial perturbation of every image is, without a threat's eps."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from unmask.attacks.fab import FabStep, nearest_by_fab
from unmask.attacks.fast_passes import full_precision
from unmask.attacks.fmn import nearest_by_fmn
from unmask.attacks.nearest import Nearest
from unmask.attacks.problem import Problem, pose
from unmask.contract import Model
from unmask.errors import AuditError, unknown
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import Norm, ThreatModel

_METHODS: dict[str, Callable[[Problem, int], Nearest]] = {
    "fab": lambda problem, steps: nearest_by_fab(problem, FabStep(), steps),
    "fmn": nearest_by_fmn,
}


def minimal_perturbations(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm = "linf",
    method: Literal["fab", "fmn"] = "fmn",
    steps: int = 100,
    low: float = 0.0,
    high: float = 1.0,
    generator: torch.Generator | Streams | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the nearest adversarial images found and their distances from x: (B, C, H, W), float64 (B,).

    Distances are upper bounds in `norm`, in pixels: 0 for images that are misclassified as they are, infinite (and the
    image as it is) where nothing was found. `method` and `steps` are those of the attacks `fab` and `fmn`. Raises
    DataError or ModelError for unusable inputs or outputs, ThreatError for an unknown norm, AuditError for an unknown
    method or a negative number of steps.
    """
    if method not in _METHODS:
        raise AuditError(unknown("method", method, _METHODS))
    threat = ThreatModel(norm, Fraction(0), low, high)
    found = _METHODS[method](pose(full_precision(model), x, y, threat=threat, generator=generator, loss=margin), steps)
    return found.nearest, found.distance
