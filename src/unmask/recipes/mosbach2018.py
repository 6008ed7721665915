"""Mosbach et al. 2018, "Logit pairing methods can fool gradient-based attacks": the MNIST and CIFAR-10 tables.

Settings of the authors' public code: no normalisation, crop or flip; Adam at a constant 1e-3; batch 256 for 10 epochs;
no weight averaging. 1,000 test images; the strongest attack is the per-image worst case over its restarts.
"""

from __future__ import annotations

from unmask.recipes.recipe import Recipe, published, recipe
from unmask.threat import Linf
from unmask.training import (
    ConstantRate,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    Training,
    adversarial_training,
    clp,
    lsq,
    plain,
    plain_alp,
)

PAPER = "Mosbach et al. 2018"
COLUMNS = ("accuracy", "baseline", "strongest")

MNIST_THREAT = Linf("76.5/255")
MNIST_ADVERSARY = PgdAdversary(MNIST_THREAT, steps=40, step_size=2.55 / 255)
MNIST_NOISE = GaussianNoise(0.5, clip=True)

CIFAR10_THREAT = Linf("16/255")
CIFAR10_ADVERSARY = PgdAdversary(CIFAR10_THREAT, steps=10, step_size=2 / 255)
CIFAR10_NOISE = GaussianNoise(0.06, clip=True)

Figures = tuple[float, float, float]


def _training(objective: Objective, noise: GaussianNoise | None) -> Training:
    return Training(
        objective,
        Optimizer("adam", 1e-3, {"eps": 1e-6}),
        ConstantRate(),
        epochs=10,
        batch_size=256,
        augmentations=() if noise is None else (noise,),
    )


def _mnist(row: str, objective: Objective, figures: Figures, noise: GaussianNoise | None = None) -> Recipe:
    claims = published(PAPER, "MNIST", row, dict(zip(COLUMNS, figures, strict=True)))
    name, summary = f"000/mnist/{_slug(row)}", f"{PAPER}, MNIST: {row}"
    return Recipe(name, summary, "mnist", "lenet", MNIST_THREAT, _training(objective, noise), claims)


def _cifar10(row: str, objective: Objective, figures: Figures, noise: GaussianNoise | None = None) -> Recipe:
    claims = published(PAPER, "CIFAR-10", row, dict(zip(COLUMNS, figures, strict=True)))
    name, summary = f"000/cifar10/{_slug(row)}", f"{PAPER}, CIFAR-10: {row}"
    training = _training(objective, noise)
    return Recipe(
        name, summary, "cifar10", "resnet20-v2", CIFAR10_THREAT, training, claims, usual_attack="pgd-10-step-2/255"
    )


def _slug(row: str) -> str:
    return row.lower().replace("%", "").replace(" + ", "-").replace(" ", "-")


@recipe
def mnist_plain() -> Recipe:
    """Cross-entropy only."""
    return _mnist("Plain", plain(), (99.2, 0.0, 0.0))


@recipe
def mnist_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    return _mnist("CLP", clp(0.5), (98.8, 62.4, 4.1), MNIST_NOISE)


@recipe
def mnist_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    return _mnist("LSQ", lsq(0.5), (98.8, 70.6, 5.0), MNIST_NOISE)


@recipe
def mnist_plain_alp() -> Recipe:
    """Adversarial images are only paired."""
    return _mnist("Plain + ALP", plain_alp(MNIST_ADVERSARY), (98.5, 96.0, 88.9))


@recipe
def mnist_50_at_alp() -> Recipe:
    """Half clean, half adversarial cross-entropy, paired."""
    return _mnist("50% AT + ALP", adversarial_training(MNIST_ADVERSARY, 0.5, pairing=1.0), (98.3, 97.2, 89.9))


@recipe
def mnist_50_at() -> Recipe:
    """Half clean, half adversarial cross-entropy (Kannan et al.'s M-PGD)."""
    return _mnist("50% AT", adversarial_training(MNIST_ADVERSARY, 0.5), (99.1, 92.7, 88.2))


@recipe
def mnist_100_at_alp() -> Recipe:
    """Adversarial cross-entropy only, paired with the clean logits."""
    return _mnist("100% AT + ALP", adversarial_training(MNIST_ADVERSARY, pairing=1.0), (98.4, 96.6, 85.7))


@recipe
def mnist_100_at() -> Recipe:
    """Adversarial cross-entropy only (Madry et al.)."""
    return _mnist("100% AT", adversarial_training(MNIST_ADVERSARY), (98.9, 95.2, 88.0))


@recipe
def cifar10_plain() -> Recipe:
    """Cross-entropy only."""
    return _cifar10("Plain", plain(), (83.0, 0.0, 0.0))


@recipe
def cifar10_clp() -> Recipe:
    """Clean logit pairing with Gaussian noise."""
    return _cifar10("CLP", clp(0.5), (73.9, 2.8, 0.0), CIFAR10_NOISE)


@recipe
def cifar10_lsq() -> Recipe:
    """Logit squeezing with Gaussian noise."""
    return _cifar10("LSQ", lsq(0.5), (81.7, 27.0, 1.7), CIFAR10_NOISE)


@recipe
def cifar10_plain_alp() -> Recipe:
    """Adversarial images are only paired."""
    return _cifar10("Plain + ALP", plain_alp(CIFAR10_ADVERSARY), (71.5, 23.6, 10.7))


@recipe
def cifar10_50_at_alp() -> Recipe:
    """Half clean, half adversarial cross-entropy, paired."""
    return _cifar10("50% AT + ALP", adversarial_training(CIFAR10_ADVERSARY, 0.5, pairing=1.0), (70.4, 21.8, 10.5))


@recipe
def cifar10_50_at() -> Recipe:
    """Half clean, half adversarial cross-entropy (Kannan et al.'s M-PGD)."""
    return _cifar10("50% AT", adversarial_training(CIFAR10_ADVERSARY, 0.5), (73.8, 18.6, 7.3))


@recipe
def cifar10_100_at_alp() -> Recipe:
    """Adversarial cross-entropy only, paired with the clean logits."""
    return _cifar10("100% AT + ALP", adversarial_training(CIFAR10_ADVERSARY, pairing=1.0), (65.7, 19.0, 6.4))


@recipe
def cifar10_100_at() -> Recipe:
    """Adversarial cross-entropy only (Madry et al.)."""
    return _cifar10("100% AT", adversarial_training(CIFAR10_ADVERSARY), (65.7, 16.0, 6.7))
