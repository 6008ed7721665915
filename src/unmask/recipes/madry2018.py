"""Madry et al. 2018: the MNIST network and training that Shafahi et al. and Kannan et al. took over."""

from __future__ import annotations

from unmask.recipes.recipe import Claim, Recipe
from unmask.threat import Linf
from unmask.training import ConstantRate, GaussianNoise, Objective, Optimizer, PgdAdversary, Training

THREAT = Linf("0.3")
ADVERSARY = PgdAdversary(THREAT, steps=40, step_size=0.01)

# TensorFlow's MNIST reader keeps the first 5,000 training images for validation.
HELD_OUT = 5_000
IMAGES = 60_000 - HELD_OUT
BATCH_SIZE = 50


def mnist(
    name: str,
    summary: str,
    objective: Objective,
    claims: tuple[Claim, ...],
    *,
    iterations: int = 100_000,
    augmentations: tuple[GaussianNoise, ...] = (),
) -> Recipe:
    """Return a recipe with Adam at a constant 1e-4, and the whole epochs nearest to `iterations` steps of 50 images."""
    training = Training(
        objective,
        Optimizer("adam", 1e-4),
        ConstantRate(),
        epochs=round(iterations * BATCH_SIZE / IMAGES),
        batch_size=BATCH_SIZE,
        augmentations=augmentations,
    )
    return Recipe(name, summary, "mnist", "lenet-madry", THREAT, training, claims, HELD_OUT)
