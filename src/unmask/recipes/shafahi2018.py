"""Shafahi et al. 2018, "Label smoothing and logit squeezing": rows of Table 6 (MNIST).

Madry et al.'s network and training; k counts training iterations. The text does not say that noisy images are clipped,
so they are not. White-box columns: PGD-40 on either loss; black-box columns: examples from the plainly trained model.
"""

from __future__ import annotations

from unmask.recipes import madry2018
from unmask.recipes.recipe import Claim, Recipe, published, recipe
from unmask.training import GaussianNoise, Objective, frobenius_lsq, label_smoothing, plain

PAPER = "Shafahi et al. 2018"
COLUMNS = ("train", "test", "x-ent", "cw", "black-box fgsm", "black-box pgd")

Figures = tuple[float, float, float, float, float, float]


def _mnist(
    defence: str, objective: Objective, figures: Figures, *, row: str, thousands: int, again: Figures | None = None
) -> Recipe:
    """Build one row with sigma 0.5; `row` is its settings as printed, `again` the same row's second printing."""
    claims = _claims(row, figures) + (() if again is None else _claims(f"{row} (second)", again))
    return madry2018.mnist(
        f"001/mnist/{defence}-sigma-0.5-{thousands}k",
        f"{PAPER}, MNIST: alpha, beta, sigma, k = {row}",
        objective,
        claims,
        iterations=1_000 * thousands,
        augmentations=(GaussianNoise(0.5),),
    )


def _claims(row: str, figures: Figures) -> tuple[Claim, ...]:
    return published(PAPER, "Table 6", row, dict(zip(COLUMNS, figures, strict=True)))


@recipe
def plain_100k() -> Recipe:
    """Noise only."""
    figures = (99.89, 98.97, 5.18, 1.95, 84.23, 86.21)
    return _mnist("plain", plain(), figures, row="0 0 0.5 100k", thousands=100)


@recipe
def plain_400k() -> Recipe:
    """Noise only; the table prints these settings twice, with two results."""
    figures = (99.99, 99.09, 11.24, 17.52, 87.28, 89.44)
    again = (100.00, 99.23, 11.75, 19.64, 87.57, 89.71)
    return _mnist("plain", plain(), figures, row="0 0 0.5 400k", thousands=400, again=again)


@recipe
def squeezing_half_100k() -> Recipe:
    """Logit squeezing, beta 0.5."""
    figures = (99.83, 99.06, 57.57, 55.77, 85.91, 87.48)
    return _mnist("lsq-0.5", frobenius_lsq(0.5), figures, row="0 0.5 0.5 100k", thousands=100)


@recipe
def squeezing_half_400k() -> Recipe:
    """Logit squeezing, beta 0.5."""
    figures = (99.96, 99.21, 72.44, 72.39, 87.58, 89.48)
    return _mnist("lsq-0.5", frobenius_lsq(0.5), figures, row="0 0.5 0.5 400k", thousands=400)


@recipe
def squeezing_two_100k() -> Recipe:
    """Logit squeezing, beta 2."""
    figures = (99.69, 99.05, 67.93, 66.38, 85.09, 86.29)
    return _mnist("lsq-2.0", frobenius_lsq(2.0), figures, row="0 2.0 0.5 100k", thousands=100)


@recipe
def squeezing_two_400k() -> Recipe:
    """Logit squeezing, beta 2."""
    figures = (99.94, 99.21, 79.13, 78.36, 87.75, 89.47)
    return _mnist("lsq-2.0", frobenius_lsq(2.0), figures, row="0 2.0 0.5 400k", thousands=400)


@recipe
def smoothing_100k() -> Recipe:
    """Label smoothing, alpha 0.95."""
    figures = (99.20, 99.01, 61.95, 60.80, 84.83, 86.02)
    return _mnist("ls-0.95", label_smoothing(0.95), figures, row="0.95 0 0.5 100k", thousands=100)


@recipe
def smoothing_400k() -> Recipe:
    """Label smoothing, alpha 0.95."""
    figures = (99.82, 99.23, 74.15, 73.19, 86.72, 87.87)
    return _mnist("ls-0.95", label_smoothing(0.95), figures, row="0.95 0 0.5 400k", thousands=400)
