"""Madry et al. 2018: the networks and trainings that Shafahi et al. and Kannan et al. took over."""

from __future__ import annotations

from unmask.recipes.recipe import Claim, Recipe
from unmask.threat import Linf
from unmask.training import (
    ConstantRate,
    CropAndFlip,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    StepRate,
    Training,
)

THREAT = Linf("0.3")
ADVERSARY = PgdAdversary(THREAT, steps=40, step_size=0.01)

# TensorFlow's MNIST reader keeps the first 5,000 training images for validation.
HELD_OUT = 5_000
IMAGES = 60_000 - HELD_OUT
BATCH_SIZE = 50

CIFAR_THREAT = Linf("8/255")
CIFAR_ADVERSARY = PgdAdversary(CIFAR_THREAT, steps=7, step_size=2 / 255)
CIFAR_IMAGES = 50_000
CIFAR_BATCH_SIZE = 128


def mnist(
    name: str,
    summary: str,
    objective: Objective,
    claims: tuple[Claim, ...],
    *,
    iterations: int = 100_000,
    augmentations: tuple[GaussianNoise, ...] = (),
    surrogate: str | None = None,
) -> Recipe:
    """Return a recipe with Adam at a constant 1e-4, and the whole epochs nearest to `iterations` steps of 50 images."""
    training = Training(
        objective,
        Optimizer("adam", 1e-4),
        ConstantRate(),
        epochs=_epochs(iterations, IMAGES, BATCH_SIZE),
        batch_size=BATCH_SIZE,
        augmentations=augmentations,
    )
    return Recipe(name, summary, "mnist", "lenet-madry", THREAT, training, claims, HELD_OUT, surrogate=surrogate)


def cifar(
    name: str,
    summary: str,
    objective: Objective,
    claims: tuple[Claim, ...],
    *,
    data: str = "cifar10",
    iterations: int = 80_000,
    augmentations: tuple[GaussianNoise, ...] = (),
    surrogate: str | None = None,
) -> Recipe:
    """Return a recipe of WRN-28-10 with SGD, and the whole epochs nearest to `iterations` steps of 128 images.

    The rate is .1, .01 and .001, in the shares of the training that 40,000, 20,000 and 20,000 steps have of 80,000.
    Weight decay is 2e-4 times half the squared norm of the kernels. Images are padded by 2 pixels, cropped and
    flipped, before `augmentations`; the network standardises each.
    """
    training = Training(
        objective,
        Optimizer("sgd", 0.1, {"momentum": 0.9}, weight_decay=2e-4),
        StepRate((0.5, 0.75)),
        epochs=_epochs(iterations, CIFAR_IMAGES, CIFAR_BATCH_SIZE),
        batch_size=CIFAR_BATCH_SIZE,
        augmentations=(CropAndFlip(2), *augmentations),
    )
    return Recipe(
        name,
        summary,
        data,
        "wrn-28-10",
        CIFAR_THREAT,
        training,
        claims,
        usual_attack="pgd-20-step-2/255",
        surrogate=surrogate,
    )


def _epochs(iterations: int, images: int, batch_size: int) -> int:
    steps_per_epoch = -(-images // batch_size)
    return round(iterations / steps_per_epoch)
