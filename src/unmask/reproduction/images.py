"""The images of a reproduction: loaded once per process, however many models they serve."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from unmask.data import DataSet, load_data
from unmask.recipes import Recipe


def count(recipe: Recipe, data_dir: Path | None) -> int:
    """Return how many images a recipe trains on; raises DataError where they are absent."""
    return recipe.images or len(_loaded(recipe.data, "train", data_dir)) - recipe.held_out


def images_of(recipe: Recipe, data_dir: Path | None, device: str) -> dict[str, DataSet]:
    """Return the images that a recipe trains on ("train") and the test images ("test"); raises DataError."""
    whole = _loaded(recipe.data, "train", data_dir)
    last = len(whole) if recipe.images is None else min(len(whole), recipe.held_out + recipe.images)
    trained = whole.select(torch.arange(recipe.held_out, last))
    return {"train": trained.to(device), "test": _loaded(recipe.data, "test", data_dir).to(device)}


@lru_cache(maxsize=4)
def _loaded(name: str, split: str, data_dir: Path | None) -> DataSet:
    return load_data(name, split, data_dir=data_dir)
