"""The card of a trained model: data, objective, settings, figures, hashes, and the command that made it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unmask.contract import logits_of
from unmask.data import DataSet
from unmask.environment import code_version, hardware, packages
from unmask.errors import RecipeError
from unmask.recipes.configuration import Configuration, command
from unmask.recipes.recipe import RECIPES, Recipe

TOPS = (1, 5)


@dataclass(frozen=True)
class Inputs:
    """All that a training starts from. `in_memory` names what came as an object ("data", "model"), not by name."""

    recipe: Recipe
    seed: int
    train_set: DataSet
    test_set: DataSet
    fingerprint: str
    in_memory: tuple[str, ...] = ()

    def toml(self) -> str | None:
        """Return the text of a file that trains the same again, None if there can be none."""
        try:
            return None if self.in_memory else Configuration(self.recipe, self.seed).toml()
        except RecipeError:
            return None

    def command(self) -> str:
        """Return what trains the same again: a recipe's name with changes, the file beside the card, or Python."""
        if self.toml() is None:
            given = "".join(f", {name}=..." for name in self.in_memory)
            return f"unmask.train(recipe, seed={self.seed}{given})  # in Python, the recipe {self.recipe.name}"
        if self.recipe.name in RECIPES:
            return command(Configuration(self.recipe, self.seed))
        return "unmask train recipe.toml"


def card_of(model: nn.Module, inputs: Inputs, weights: bytes, device: torch.device) -> dict[str, Any]:
    """Return the card of a model in eval mode whose file of weights is `weights`."""
    recipe, data, test_set = inputs.recipe, inputs.train_set, inputs.test_set
    training = recipe.training.describe()
    tops = [top for top in TOPS if top < len(data.classes)]
    shares = {top: round(share, 4) for top, share in zip(tops, accuracies(model, test_set, tops), strict=True)}
    return {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "classes": len(data.classes),
        "data": recipe.data,
        "threat": recipe.threat.describe(),
        "usual_attack": recipe.usual_attack,
        "recipe": recipe.name,
        "objective": training.pop("objective"),
        "training": {
            **training,
            "seed": inputs.seed,
            "held_out": recipe.held_out,
            "examples": len(data),
            "data_fingerprint": data.fingerprint(),
        },
        "figures": {
            "clean_accuracy": shares.pop(1),
            **{f"clean_accuracy_top{top}": share for top, share in shares.items()},
            "test_examples": len(test_set),
            "test_data_fingerprint": test_set.fingerprint(),
        },
        "command": inputs.command(),
        "hardware": hardware(device),
        "packages": packages(),
        "version": code_version(),
        "fingerprint": inputs.fingerprint,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }


@torch.no_grad()
def accuracies(model: nn.Module, data: DataSet, tops: Sequence[int], batch_size: int = 1000) -> list[float]:
    """Return, for every k of `tops`, the share of the data whose class is among the model's k likeliest."""
    right = torch.zeros(len(tops), dtype=torch.int64)
    for index in torch.arange(len(data)).split(batch_size):
        batch = data.select(index)
        likeliest = logits_of(model, batch.pixels()).topk(max(tops)).indices == batch.labels.unsqueeze(1)
        right += torch.tensor([int(likeliest[:, :top].sum()) for top in tops])
    return [count / len(data) for count in right.tolist()]
