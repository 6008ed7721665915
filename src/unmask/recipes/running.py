"""Training a recipe: build, fit, and leave weights with a model card that says how they came about."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from unmask.contract import eval_mode, logits_of, usable_device
from unmask.data import DataSet, load_data
from unmask.distributed import Workers, local_device
from unmask.errors import CheckpointError, DataError, ModelError, RecipeError
from unmask.files import make_folder, write_atomic
from unmask.models import build, load_model
from unmask.models.callables import call_named
from unmask.models.cards import read_card
from unmask.models.state import fit_state, read_state
from unmask.recipes.cards import Inputs, card_of
from unmask.recipes.configuration import Configuration, configure
from unmask.recipes.recipe import Recipe, override
from unmask.streams import derive_generator
from unmask.training import EnsembleAdversary, Progress, fit
from unmask.training.loop import CHECKPOINTS, training_fingerprint

WEIGHTS, CARD, CONFIGURATION = "model.safetensors", "model.json", "recipe.toml"


@dataclass(frozen=True)
class Trained:
    """A trained model (eval mode, frozen parameters), its recipe, its card, and the folder they were written to."""

    model: nn.Module
    recipe: Recipe
    card: dict[str, Any]
    run_dir: Path | None


def train(
    recipe: str | Path | Recipe,
    *,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    data: tuple[DataSet, DataSet] | None = None,
    model: nn.Module | None = None,
    device: str | torch.device = "cpu",
    watch: Callable[[Progress], None] | None = None,
    log: Callable[[dict[str, object]], None] | None = None,
) -> Trained:
    """Train a recipe (by name, as a TOML file or as a value) and return the model with its card.

    `seed` (default: the file's, else 0), `epochs` and `batch_size` replace the recipe's. With a `run_dir`, checkpoints,
    `log.jsonl`, `model.safetensors`, `model.json` and, where names say it all, `recipe.toml` are kept there, and the
    same call resumes an unfinished training or returns a finished one. `data` gives (train, test) sets in place of the
    recipe's, `model` a module, of which a copy is trained. Under torchrun all processes share every step, and the first
    one writes. Raises RecipeError, DataError, ModelError, CheckpointError or OutputError.
    """
    configured = Configuration(recipe) if isinstance(recipe, Recipe) else configure(recipe)
    seed = configured.seed if seed is None else seed
    chosen = override(configured.recipe, epochs=epochs, batch_size=batch_size)
    workers, device = Workers.here(), usable_device(local_device(str(device)))
    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        make_folder(folder)
    train_set, test_set = data or load_sets(
        chosen.data,
        held_out=chosen.held_out,
        images=chosen.images,
        data_dir=data_dir,
        download=download,
        workers=workers,
    )
    train_set, test_set = train_set.to(device), test_set.to(device)
    if data is not None:
        chosen = replace(chosen, data=train_set.name, held_out=0)
    if model is not None:
        chosen = replace(chosen, architecture=f"{type(model).__module__}:{type(model).__qualname__}")
    network = (_build(chosen, train_set, seed) if model is None else deepcopy(model)).to(device)
    _check_fit(chosen.architecture, network, train_set)
    ready = _with_surrogates(chosen, train_set, device)
    fingerprint = training_fingerprint(network, train_set, ready.training, seed)
    given = tuple(name for name, one in (("data", data), ("model", model)) if one is not None)
    inputs = Inputs(chosen, seed, train_set, test_set, fingerprint, given)
    if folder is not None:
        look: Callable[[], dict[str, Any]] = partial(_finished, folder, fingerprint) if workers.leads else dict
        card = workers.broadcast(workers.together(look))
        if card:
            fit_state(network, read_state(folder / WEIGHTS, sha256=card.get("sha256")), str(folder / WEIGHTS))
            return Trained(network.eval().requires_grad_(False), chosen, card, folder)
        if workers.leads:
            _write_configuration(folder, inputs)
    fitted = fit(network, train_set, ready.training, seed=seed, run_dir=folder, watch=watch, log=log)
    fitted.requires_grad_(False)
    finish: Callable[[], dict[str, Any]] = partial(_finish, fitted, inputs, folder, device) if workers.leads else dict
    return Trained(fitted, chosen, workers.broadcast(workers.together(finish)), folder)


def _finish(model: nn.Module, inputs: Inputs, folder: Path | None, device: torch.device) -> dict[str, Any]:
    """Write weights and card, and return the card."""
    payload = save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
    card = card_of(model, inputs, payload, device)
    if folder is not None:
        write_atomic(folder / WEIGHTS, payload)
        write_atomic(folder / CARD, json.dumps(card, indent=2).encode())
    return card


def _finished(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Return the card of a finished training of these very settings, {} if there is none, or refuse another's."""
    if not (folder / CARD).is_file():
        if (folder / WEIGHTS).exists() and not (folder / CHECKPOINTS).is_dir():
            raise CheckpointError(f"{folder} holds a {WEIGHTS} that no training left there. Use another --run-dir.")
        return {}
    card = read_card(folder / CARD)
    if card.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{folder} holds the finished model '{card.get('name')}', trained with other settings, data or seed. Use "
            "another --run-dir, or delete it."
        )
    return card


def _write_configuration(folder: Path, inputs: Inputs) -> None:
    """Leave the settings as a file that trains the same again, if there can be one."""
    text = inputs.toml()
    # With checkpoints the file is there already, or belongs to another training, as which this one is then refused.
    if text is not None and not any((folder / CHECKPOINTS).glob("*")):
        write_atomic(folder / CONFIGURATION, text.encode())


def load_sets(
    data: str,
    *,
    held_out: int = 0,
    images: int | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    workers: Workers | None = None,
) -> tuple[DataSet, DataSet]:
    """Return the images that a recipe of these settings trains on, and the test images.

    Raises DataError for data that are absent or have no two splits of the same classes, RecipeError for a `held_out` or
    a number of `images` that leaves nothing to train on.
    """
    workers = workers or Workers()
    if images is not None and images < 1:
        raise RecipeError(f"images is {images}; expected 1 or more training images, or none for all.")
    most = {"train": None if images is None else max(held_out, 0) + images, "test": None}

    def both(fetch: bool = False) -> tuple[DataSet, DataSet]:
        train_set, test_set = (
            load_data(data, split, data_dir=data_dir, download=fetch, most=count) for split, count in most.items()
        )
        return train_set, test_set

    if download:
        workers.together(lambda: both(fetch=True) if workers.leads else None)  # two must not fetch to one file
    train_set, test_set = both()
    if train_set.split == test_set.split:
        raise DataError(
            f"'{data}' has no splits, so that it would be tested on what it was trained on. Give an .npz file "
            "with x_train, y_train, x_test and y_test, or a folder with the folders train and test."
        )
    if train_set.classes != test_set.classes:
        raise DataError(
            f"The classes of '{data}' are {len(train_set.classes)} for training and {len(test_set.classes)} for "
            "testing, or have other names. Give both splits the same ones."
        )
    if not 0 <= held_out < len(train_set):
        raise RecipeError(f"held_out is {held_out}; expected 0 to {len(train_set) - 1} of the training images.")
    return train_set.select(torch.arange(held_out, len(train_set))), test_set


def _build(recipe: Recipe, data: DataSet, seed: int) -> nn.Module:
    """Return the network as it starts: one by name, or what the user's function makes, drawn by the seed."""
    generator = derive_generator(seed, "weights")
    if ":" not in recipe.architecture:
        return build(recipe.architecture, classes=len(data.classes), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = call_named(recipe.architecture)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{recipe.architecture} returned a {type(model).__name__}; only a torch.nn.Module can be trained."
        )
    return model


@torch.no_grad()
def _check_fit(name: str, model: nn.Module, data: DataSet) -> None:
    """Raise ModelError unless the model takes the images and answers with the data's classes."""
    images = data.select(torch.arange(min(2, len(data)))).pixels()
    with eval_mode(model):
        try:
            classes = logits_of(model, images).shape[1]
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelError(
                f"{name} cannot take images of shape {data.input_shape} of {data.name}: {str(error).splitlines()[0]}. "
                "Give a model for such images (--model), or other data (--data)."
            ) from error
    if classes != len(data.classes):
        raise ModelError(
            f"{name} answers with {classes} classes, but {data.name} has {len(data.classes)}. Give the model's last "
            "layer as many."
        )


def _with_surrogates(recipe: Recipe, data: DataSet, device: torch.device) -> Recipe:
    """Load the fixed models that an ensemble adversary names."""
    training = recipe.training
    adversary = training.objective.adversary
    if not isinstance(adversary, EnsembleAdversary) or adversary.models:
        return recipe
    loaded = [load_model(name, device=device).model for name in adversary.surrogates]
    models = tuple(model for model in loaded if isinstance(model, nn.Module))
    if len(models) < len(loaded):
        raise ModelError("A surrogate is no torch.nn.Module: name packaged models or folders that a training left.")
    for name, model in zip(adversary.surrogates, models, strict=True):
        _check_fit(f"The surrogate {name}", model, data)
    objective = replace(training.objective, adversary=replace(adversary, models=models))
    return replace(recipe, training=replace(training, objective=objective))
