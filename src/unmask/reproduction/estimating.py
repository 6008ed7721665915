"""What a plan will cost, told before it starts: images, evaluations, and a guess at the time from a moment's trial."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from unmask.models import ARCHITECTURES, build
from unmask.recipes.running import CARD
from unmask.reproduction.images import count
from unmask.reproduction.planning import Figured, Model, Plan, passes_per_image

TRIAL_BATCH, TRIAL_SECONDS = 16, 0.2


@dataclass(frozen=True)
class Estimate:
    """What is still to be made: models, measurements, studies; images trained on, evaluations, seconds at a guess."""

    models: int
    measures: int
    studies: int
    images: int
    evaluations: int
    seconds: float


def estimate(plan: Plan, device: str = "cpu") -> Estimate:
    """Return what of a plan is still to be made, and what that costs.

    The speed of each network is tried for a fifth of a second. Audits are counted at what they usually take, studies
    not at all, so the time is a guess.
    """
    models = [model for model in plan.models.values() if not (model.folder / CARD).is_file()]
    trained_on = {model.folder: count(model.recipe, plan.data_dir) for model in models}
    measures = [one for one in plan.measures.values() if not one.folder.is_dir()]
    studies = [one for one in plan.studies.values() if not one.folder.is_dir()]
    rates = {name: _rate(name, device) for name in {one.recipe.architecture for one in _subjects(models, measures)}}
    work = [
        (model.recipe, trained_on[model.folder] * model.recipe.training.epochs * passes_per_image(model.recipe))
        for model in models
    ]
    work += [(one.model.recipe, one.evaluations) for one in measures]
    return Estimate(
        len(models),
        len(measures),
        len(studies),
        sum(trained_on[model.folder] * model.recipe.training.epochs for model in models),
        sum(evaluations for _, evaluations in work),
        sum(evaluations / rates[recipe.architecture] for recipe, evaluations in work),
    )


def _subjects(models: list[Model], measures: list[Figured]) -> list[Model]:
    return [*models, *(one.model for one in measures)]


def _rate(architecture: str, device: str) -> float:
    """Return evaluations per second, forwards and backwards alike, of a network (1,000 for a user's own)."""
    if architecture not in ARCHITECTURES:
        return 1_000.0
    network = build(architecture).to(device).eval()
    x = torch.rand(TRIAL_BATCH, *ARCHITECTURES[architecture].input_shape, device=device)
    _pass(network, x)
    begun, passes = time.monotonic(), 0
    while time.monotonic() - begun < TRIAL_SECONDS:
        _pass(network, x)
        passes += 2 * len(x)
    return passes / (time.monotonic() - begun)


def _pass(network: nn.Module, x: torch.Tensor) -> None:
    network(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
