"""The field's defences beside the seeds', each on MNIST with a small network, in minutes on two cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unmask.recipes.mnist import ADVERSARY, THREAT, half_lenet
from unmask.recipes.recipe import Recipe, recipe
from unmask.threat import Linf
from unmask.training import (
    CyclicRate,
    EnsembleAdversary,
    Objective,
    Optimizer,
    PgdAdversary,
    Training,
    Validation,
    WeightAdversary,
    adversarial_training,
    fast_adversarial_training,
    free_adversarial_training,
    mart,
    paired_features,
    plain,
    trades,
    vat,
)

WATCHED = Validation(images=1000, by="robust", threat=THREAT, steps=20, collapse=0.3)


def _small(
    name: str,
    summary: str,
    objective: Objective,
    optimizer: Optimizer,
    *,
    epochs: int,
    architecture: str,
    **settings: Any,
) -> Recipe:
    settings = {"validation": WATCHED, **settings}
    training = Training(objective, optimizer, CyclicRate(), epochs=epochs, batch_size=100, **settings)
    return Recipe(f"mnist-{name}", summary, "mnist", architecture, THREAT, training)


@recipe
def mnist_fast_at() -> Recipe:
    """Single-step adversarial training, watched for catastrophic overfitting."""
    return _small(
        "fast-at",
        "Fast adversarial training: one step of 1.25 eps from a random point of the ball",
        fast_adversarial_training(THREAT),
        Optimizer("adam", 5e-3),
        epochs=10,
        architecture="strided-cnn-wide",
    )


@recipe
def mnist_trades() -> Recipe:
    """TRADES, weight 3, against a ball a little larger than the one it is audited in."""
    adversary = PgdAdversary(Linf("0.32"), steps=8, step_size=0.08, loss="divergence", start="gaussian")
    return _small(
        "trades",
        "TRADES: divergence from the clean answer within Linf 0.32, weight 3",
        trades(adversary, 3.0),
        Optimizer("adam", 2e-3),
        epochs=16,
        architecture="lenet-half",
        ema=0.999,
        validation=replace(WATCHED, images=500),
    )


@recipe
def mnist_mart() -> Recipe:
    """MART, weight 5."""
    adversary = PgdAdversary(THREAT, steps=10, step_size=0.06, start="gaussian")
    what = "MART: boosted cross-entropy, divergence where the model doubts (weight 5)"
    return half_lenet("mart", what, mart(adversary), epochs=25, batch_size=128, ema=0.999, validation=WATCHED)


@recipe
def mnist_awp() -> Recipe:
    """100% PGD adversarial training against perturbed weights."""
    objective = adversarial_training(ADVERSARY)
    what = "100% PGD adversarial training with adversarial weight perturbation (gamma 0.005)"
    weights = WeightAdversary(0.005, warmup=5)
    return half_lenet("awp", what, objective, epochs=20, batch_size=128, weight_adversary=weights, validation=WATCHED)


@recipe
def mnist_free_at() -> Recipe:
    """Free adversarial training, each batch used eight times."""
    what = "Free adversarial training: the perturbation learns from the weights' own gradients, 8 replays"
    objective = free_adversarial_training(THREAT, replays=8)
    return half_lenet("free-at", what, objective, epochs=5, batch_size=128, validation=WATCHED)


@recipe
def mnist_gradalign() -> Recipe:
    """Single-step adversarial training with aligned gradients."""
    what = "Fast adversarial training with GradAlign (weight 0.2)"
    objective = fast_adversarial_training(THREAT, step_share=1.0, alignment=0.2)
    return half_lenet("gradalign", what, objective, epochs=20, batch_size=128, ema=0.999, validation=WATCHED)


@recipe
def mnist_ensemble_at() -> Recipe:
    """Adversarial images of the model itself or of two fixed ones."""
    what = "ensemble adversarial training: attacks on the model, mnist-plain or mnist-clp, half of the loss"
    adversary = EnsembleAdversary(ADVERSARY, ("mnist-plain", "mnist-clp"))
    return half_lenet("ensemble-at", what, adversarial_training(adversary, share=0.5), epochs=10, batch_size=128)


@recipe
def mnist_feature_pairing() -> Recipe:
    """Mixed-minibatch adversarial training with paired features."""
    what = "50% PGD adversarial training, penultimate features of both halves paired (weight 1)"
    return half_lenet("feature-pairing", what, paired_features(ADVERSARY), epochs=14, batch_size=128)


@recipe
def mnist_vat() -> Recipe:
    """Virtual adversarial training."""
    return half_lenet("vat", "virtual adversarial training, L2 length 2", vat(2.0), epochs=10)


@recipe
def mnist_mixup() -> Recipe:
    """Cross-entropy on mixed images."""
    return half_lenet("mixup", "mixup (alpha 0.4)", plain(), epochs=20, mixup=0.4)
