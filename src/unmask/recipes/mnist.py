"""The packaged zoo's recipes: half-width LeNets on MNIST, each in minutes on two cores."""

from __future__ import annotations

from typing import Any

from unmask.recipes.recipe import Recipe, recipe
from unmask.threat import Linf
from unmask.training import (
    CosineRate,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    Training,
    adversarial_training,
    clp,
    label_smoothing,
    lsq,
    plain,
    plain_alp,
)

THREAT = Linf("0.3")
NOISE = GaussianNoise(0.5)
ADVERSARY = PgdAdversary(THREAT, steps=7, step_size=0.1)


def half_lenet(
    name: str,
    summary: str,
    objective: Objective,
    *,
    noise: bool = False,
    epochs: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    **settings: Any,
) -> Recipe:
    """Return a recipe for the half-width LeNet at Linf 0.3: Adam, half a cosine; further settings as `Training`'s."""
    training = Training(
        objective,
        Optimizer("adam", lr),
        CosineRate(),
        epochs=epochs,
        batch_size=batch_size,
        augmentations=(NOISE,) if noise else (),
        **settings,
    )
    return Recipe(f"mnist-{name}", summary, "mnist", "lenet-half", THREAT, training)


@recipe
def mnist_plain() -> Recipe:
    """Cross-entropy only."""
    return half_lenet("plain", "cross-entropy only", plain(), epochs=10)


@recipe
def mnist_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    return half_lenet("clp", "clean logit pairing (weight 0.5) with Gaussian noise", clp(0.5), noise=True, epochs=60)


@recipe
def mnist_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    what = "logit squeezing (weight 0.5) with Gaussian noise"
    return half_lenet("lsq", what, lsq(0.5), noise=True, epochs=60, batch_size=64)


@recipe
def mnist_ls() -> Recipe:
    """Aggressive label smoothing with Gaussian noise."""
    objective = label_smoothing(0.95)
    return half_lenet("ls", "label smoothing (alpha 0.95) with Gaussian noise", objective, noise=True, epochs=60)


@recipe
def mnist_alp() -> Recipe:
    """Adversarial images are only paired."""
    what = "cross-entropy, logits of adversarial images paired (weight 1)"
    return half_lenet("alp", what, plain_alp(ADVERSARY), epochs=10)


@recipe
def mnist_at() -> Recipe:
    """100% PGD adversarial training."""
    objective = adversarial_training(ADVERSARY)
    return half_lenet("at", "100% PGD adversarial training", objective, epochs=14, batch_size=128)
