"""The demo's recipes: the seeds' main defences on the 8x8 digits, each in seconds on a CPU."""

from __future__ import annotations

from unmask.recipes.recipe import Recipe, recipe
from unmask.threat import Linf, ThreatModel
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
ROBUST_THREAT = Linf("0.075")
NOISE = GaussianNoise(0.5)


def _digits(name: str, summary: str, threat: ThreatModel, training: Training) -> Recipe:
    return Recipe(f"digits-{name}", summary, "digits", "digits-cnn", threat, training)


def _training(
    objective: Objective, epochs: int, noise: GaussianNoise | None = None, ema: float | None = None
) -> Training:
    return Training(
        objective,
        Optimizer("adam", 1e-3),
        CosineRate(),
        epochs=epochs,
        batch_size=64,
        augmentations=() if noise is None else (noise,),
        ema=ema,
    )


@recipe
def digits_plain() -> Recipe:
    """Cross-entropy only."""
    return _digits("plain", "cross-entropy only", THREAT, _training(plain(), epochs=20))


@recipe
def digits_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    training = _training(clp(0.5), epochs=100, noise=NOISE)
    return _digits("clp", "clean logit pairing (weight 0.5) with Gaussian noise", THREAT, training)


@recipe
def digits_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    training = _training(lsq(0.3), epochs=100, noise=NOISE)
    return _digits("lsq", "logit squeezing (weight 0.3) with Gaussian noise", THREAT, training)


@recipe
def digits_at() -> Recipe:
    """100% PGD adversarial training, for the eps at which 1,437 small images suffice for it."""
    adversary = PgdAdversary(ROBUST_THREAT, steps=7, step_size=0.0225)
    training = _training(adversarial_training(adversary), epochs=40, ema=0.995)
    return _digits("at", "100% PGD adversarial training", ROBUST_THREAT, training)
