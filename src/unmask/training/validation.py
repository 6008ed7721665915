"""Model selection and early stopping, on a held-out part of the training set: the test set decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import nn

from unmask.attacks import pgd
from unmask.contract import logits_of
from unmask.data import DataSet
from unmask.distributed import Workers
from unmask.errors import RecipeError, unknown
from unmask.losses import predictions
from unmask.streams import Streams, derive_generator
from unmask.threat import ThreatModel

Score = Literal["robust", "clean"]
BATCH_SIZE = 500


@dataclass(frozen=True)
class Validation:
    """After every epoch, `images` held-out training images say how good the model is; the best epoch's is the result.

    Accuracy "robust" is under PGD of `steps` steps of 2.5 eps / `steps` in `threat`. Training ends after `patience`
    epochs without a better score, or as soon as it has lost `collapse` of accuracy against the best epoch: single-step
    adversarial training may lose all within one (catastrophic overfitting, Wong et al. 2020). Raises RecipeError for
    settings that make no sense.
    """

    images: int = 1000
    by: Score = "robust"
    threat: ThreatModel | None = None
    steps: int = 10
    patience: int | None = None
    collapse: float | None = None

    def __post_init__(self) -> None:
        if self.by not in get_args(Score):
            raise RecipeError(unknown("score of a validation", self.by, get_args(Score)))
        if self.by == "robust" and self.threat is None:
            raise RecipeError("The validation is by robust accuracy, but has no threat: give one, or say by='clean'.")
        if self.images < 1 or self.steps < 1 or (self.patience is not None and self.patience < 1):
            raise RecipeError(
                f"The validation has {self.images} images, {self.steps} steps and patience {self.patience}; expected 1 "
                "or more of each."
            )
        if self.collapse is not None and not 0 < self.collapse < 1:
            raise RecipeError(f"The validation's collapse is {self.collapse}; expected a share between 0 and 1.")

    def describe(self) -> dict[str, object]:
        """Return the settings as plain values."""
        return {**asdict(self), "threat": None if self.threat is None else str(self.threat)}

    def split(self, data: DataSet, seed: int) -> tuple[DataSet, DataSet]:
        """Return what is trained on and what is held out, drawn by the seed. Raises RecipeError if nothing is left."""
        if self.images >= len(data):
            raise RecipeError(f"The validation holds out {self.images} images, but there are only {len(data)} in all.")
        order = torch.randperm(len(data), generator=derive_generator(seed, "held-out"))
        return data.select(order[self.images :].sort().values), data.select(order[: self.images].sort().values)

    def scores(self, model: nn.Module, held_out: DataSet, seed: int, workers: Workers) -> dict[str, float]:
        """Return clean and, if there is a threat, robust accuracy on the held-out images, shared among the workers."""
        mine = torch.tensor(workers.share(range(len(held_out))))
        right = {"clean": 0, "robust": 0}
        for index in mine.split(BATCH_SIZE):
            part = held_out.select(index)
            x, y = part.pixels(), part.labels
            with torch.no_grad():
                right["clean"] += int((predictions(logits_of(model, x)) == y).sum())
            if self.threat is not None:
                streams = Streams.derive(seed, index.tolist(), "validation", device=x.device)
                size = 2.5 * self.threat.eps / self.steps
                found = pgd(model, x, y, threat=self.threat, steps=self.steps, step_size=size, generator=streams)
                right["robust"] += int((~found.broken).sum())
        totals = workers.gather(right)
        names = ("clean",) if self.threat is None else ("clean", "robust")
        return {name: sum(one[name] for one in totals) / len(held_out) for name in names}

    def is_over(self, history: list[float]) -> bool:
        """Say whether the scores so far end the training."""
        best = max(history)
        if self.collapse is not None and history[-1] < best - self.collapse:
            return True
        return self.patience is not None and len(history) - 1 - history.index(best) >= self.patience
