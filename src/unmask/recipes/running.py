"""Training a recipe: build, fit, and leave weights with a model card that says how they came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from unmask.contract import logits_of, usable_device
from unmask.data import DataSet, load_data
from unmask.environment import code_version, hardware, packages
from unmask.errors import CheckpointError
from unmask.files import make_folder, write_atomic
from unmask.losses import predictions
from unmask.models import build, load_model
from unmask.models.cards import read_card
from unmask.recipes.recipe import Recipe, find_recipe, override
from unmask.streams import derive_generator
from unmask.training import Progress, fit
from unmask.training.loop import CHECKPOINTS, training_fingerprint

WEIGHTS, CARD = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Trained:
    """A trained model (eval mode, frozen parameters), its recipe, its card, and the folder they were written to."""

    model: nn.Module
    recipe: Recipe
    card: dict[str, Any]
    run_dir: Path | None


def train(
    recipe: str | Recipe,
    *,
    seed: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    data: tuple[DataSet, DataSet] | None = None,
    device: str | torch.device = "cpu",
    watch: Callable[[Progress], None] | None = None,
    log: Callable[[dict[str, object]], None] | None = None,
) -> Trained:
    """Train a recipe (by name or value) and return the model with its card.

    `epochs` and `batch_size` replace the recipe's. With a `run_dir`, checkpoints, `log.jsonl`, `model.safetensors` and
    `model.json` are kept there, and the same call resumes an unfinished training or returns a finished one. `data`
    gives (train, test) sets in place of the recipe's. Raises RecipeError, DataError, CheckpointError or OutputError.
    """
    chosen = override(find_recipe(recipe) if isinstance(recipe, str) else recipe, epochs=epochs, batch_size=batch_size)
    device = usable_device(device)
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        make_folder(folder)
    train_set, test_set = data or _load(chosen, data_dir, download)
    train_set, test_set = train_set.to(device), test_set.to(device)
    model = build(chosen.architecture, classes=len(train_set.classes), generator=derive_generator(seed, "weights"))
    model = model.to(device)
    fingerprint = training_fingerprint(model, train_set, chosen.training, seed)
    finished = None if folder is None else _finished(folder, fingerprint)
    if folder is not None and finished is not None:
        loaded = load_model(str(folder), device=device).model
        assert isinstance(loaded, nn.Module)
        return Trained(loaded, chosen, finished, folder)
    fitted = fit(model, train_set, chosen.training, seed=seed, run_dir=folder, watch=watch, log=log).requires_grad_(
        False
    )
    card = _card(chosen, fitted, train_set, test_set, seed, fingerprint, device)
    if folder is not None:
        payload = save({name: tensor.contiguous() for name, tensor in fitted.cpu().state_dict().items()})
        card["sha256"] = hashlib.sha256(payload).hexdigest()
        write_atomic(folder / WEIGHTS, payload)
        write_atomic(folder / CARD, json.dumps(card, indent=2).encode())
        fitted.to(device)
    return Trained(fitted, chosen, card, folder)


@torch.no_grad()
def accuracy(model: nn.Module, data: DataSet, batch_size: int = 1000) -> float:
    """Return the share of the data that the model classifies correctly."""
    right = 0
    for index in torch.arange(len(data)).split(batch_size):
        batch = data.select(index)
        right += int((predictions(logits_of(model, batch.pixels())) == batch.labels).sum())
    return right / len(data)


def _finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the card of a finished training of these very settings, None if there is none, or refuse another's."""
    if not (folder / CARD).is_file():
        if (folder / WEIGHTS).exists() and not (folder / CHECKPOINTS).is_dir():
            raise CheckpointError(f"{folder} holds a {WEIGHTS} that no training left there. Use another --run-dir.")
        return None
    card = read_card(folder / CARD)
    if card.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{folder} holds the finished model '{card.get('name')}', trained with other settings, data or seed. Use "
            "another --run-dir, or delete it."
        )
    return card


def _load(recipe: Recipe, data_dir: str | Path | None, download: bool) -> tuple[DataSet, DataSet]:
    train_set, test_set = (
        load_data(recipe.data, split, data_dir=data_dir, download=download) for split in ("train", "test")
    )
    if recipe.held_out:
        train_set = train_set.select(torch.arange(recipe.held_out, len(train_set)))
    return train_set, test_set


def _card(
    recipe: Recipe,
    model: nn.Module,
    train_set: DataSet,
    test_set: DataSet,
    seed: int,
    fingerprint: str,
    device: str | torch.device,
) -> dict[str, Any]:
    training = recipe.training.describe()
    command = (
        f"unmask train {recipe.name} --epochs {recipe.training.epochs} --batch-size {recipe.training.batch_size} "
        f"--seed {seed}"
    )
    return {
        "name": recipe.name,
        "architecture": recipe.architecture,
        "classes": len(train_set.classes),
        "data": recipe.data,
        "threat": recipe.threat.describe(),
        "usual_attack": recipe.usual_attack,
        "recipe": recipe.name,
        "objective": training.pop("objective"),
        "training": {**training, "seed": seed, "examples": len(train_set), "data_fingerprint": train_set.fingerprint()},
        "figures": {"clean_accuracy": round(accuracy(model, test_set), 4), "test_examples": len(test_set)},
        "command": command,
        "hardware": hardware(device),
        "packages": packages(),
        "version": code_version(),
        "fingerprint": fingerprint,
    }
