"""The demo's recipes: the seeds' main defences on the 8x8 digits, each in seconds on a CPU."""

from __future__ import annotations

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
    lsq,
    plain,
)

THREAT = Linf("0.2")
NOISE = GaussianNoise(0.5)


def _digits(name: str, summary: str, objective: Objective, *, noise: bool = False, epochs: int) -> Recipe:
    training = Training(
        objective,
        Optimizer("adam", 1e-3),
        CosineRate(),
        epochs=epochs,
        batch_size=64,
        augmentations=(NOISE,) if noise else (),
    )
    return Recipe(f"digits-{name}", summary, "digits", "digits-cnn", THREAT, training)


@recipe
def digits_plain() -> Recipe:
    """Cross-entropy only."""
    return _digits("plain", "cross-entropy only", plain(), epochs=20)


@recipe
def digits_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    return _digits("clp", "clean logit pairing (weight 0.5) with Gaussian noise", clp(0.5), noise=True, epochs=100)


@recipe
def digits_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    return _digits("lsq", "logit squeezing (weight 0.5) with Gaussian noise", lsq(0.5), noise=True, epochs=100)


@recipe
def digits_at() -> Recipe:
    """100% PGD adversarial training."""
    adversary = PgdAdversary(THREAT, steps=10, step_size=0.05)
    return _digits("at", "100% PGD adversarial training", adversarial_training(adversary), epochs=30)
