"""The images of a reproduction: loaded once per process, however many models they serve."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from unmask.data import DataSet
from unmask.recipes import Recipe
from unmask.recipes.running import load_sets


def count(recipe: Recipe, data_dir: Path | None) -> int:
    """Return how many images a recipe trains on at most; raises DataError where they are absent."""
    return recipe.images or len(_loaded(recipe.data, recipe.held_out, None, data_dir)[0])


def images_of(recipe: Recipe, data_dir: Path | None, device: str) -> dict[str, DataSet]:
    """Return the images that a recipe trains on ("train") and the test images ("test"); raises DataError."""
    trained, test = _loaded(recipe.data, recipe.held_out, recipe.images, data_dir)
    return {"train": trained.to(device), "test": test.to(device)}


@lru_cache(maxsize=4)
def _loaded(data: str, held_out: int, images: int | None, data_dir: Path | None) -> tuple[DataSet, DataSet]:
    return load_sets(data, held_out=held_out, images=images, data_dir=data_dir)
