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
    Validation,
    adversarial_training,
    clp,
    fast_adversarial_training,
    label_smoothing,
    lsq,
    plain,
    plain_alp,
    trades,
)

THREAT = Linf("0.3")
NOISE = GaussianNoise(0.5)
WATCHED = Validation(images=1000, by="robust", threat=THREAT, steps=20, collapse=0.3)
ADVERSARY = PgdAdversary(THREAT, steps=7, step_size=0.1)


def _mnist(
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
    return _mnist("plain", "cross-entropy only", plain(), epochs=10)


@recipe
def mnist_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    return _mnist("clp", "clean logit pairing (weight 0.5) with Gaussian noise", clp(0.5), noise=True, epochs=60)


@recipe
def mnist_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    what = "logit squeezing (weight 0.5) with Gaussian noise"
    return _mnist("lsq", what, lsq(0.5), noise=True, epochs=60, batch_size=64)


@recipe
def mnist_ls() -> Recipe:
    """Aggressive label smoothing with Gaussian noise."""
    objective = label_smoothing(0.95)
    return _mnist("ls", "label smoothing (alpha 0.95) with Gaussian noise", objective, noise=True, epochs=60)


@recipe
def mnist_alp() -> Recipe:
    """Adversarial images are only paired."""
    what = "cross-entropy, logits of adversarial images paired (weight 1)"
    return _mnist("alp", what, plain_alp(ADVERSARY), epochs=10)


@recipe
def mnist_at() -> Recipe:
    """100% PGD adversarial training."""
    objective = adversarial_training(ADVERSARY)
    return _mnist("at", "100% PGD adversarial training", objective, epochs=14, batch_size=128)


@recipe
def mnist_fast_at() -> Recipe:
    """Single-step adversarial training, watched for catastrophic overfitting."""
    what = "Fast adversarial training: one step of 1.25 eps from a random start"
    objective = fast_adversarial_training(THREAT)
    return _mnist("fast-at", what, objective, epochs=30, batch_size=128, ema=0.999, validation=WATCHED)


@recipe
def mnist_trades() -> Recipe:
    """TRADES, weight 6."""
    adversary = PgdAdversary(THREAT, steps=10, step_size=0.06, loss="divergence", start="gaussian")
    what = "TRADES: divergence from the clean answer, weight 6"
    return _mnist("trades", what, trades(adversary), epochs=25, batch_size=128, ema=0.999, validation=WATCHED)
