"""Shafahi et al. 2018, "Label smoothing and logit squeezing": the MNIST models (Tables 1, 2 and 6).

Madry et al.'s network and training; k counts training iterations. The text does not say that noisy images are clipped,
so they are not. White-box columns: PGD-40 on either loss, from a random start; black-box columns: examples from the
naturally trained model, on the margin (the paper's "CW"; that its PGD is meant too is the caption of Table 2).
"""

from __future__ import annotations

from collections.abc import Mapping

from unmask.recipes import madry2018, shafahi2018_attacks
from unmask.recipes.recipe import Claim, Recipe, published, register
from unmask.recipes.tables import Accuracy, Attacked, Measure, fgsm
from unmask.training import (
    GaussianNoise,
    Objective,
    PgdAdversary,
    adversarial_training,
    frobenius_lsq,
    label_smoothing,
    plain,
)

PAPER = "Shafahi et al. 2018"
MADRY = "Madry et al. (2017)"
NATURAL = "001/mnist/natural"

WHITE_BOX = Attacked(steps=40, step_size=0.01)
WHITE_BOX_CW = Attacked(steps=40, step_size=0.01, loss="margin")
MEASURES: Mapping[str, Measure] = {
    "train": Accuracy("train"),
    "test": Accuracy(),
    "x-ent": WHITE_BOX,
    "cw": WHITE_BOX_CW,
    "black-box fgsm": fgsm(0.3, loss="margin", transferred=True),
    "black-box pgd": Attacked(steps=40, step_size=0.01, loss="margin", transferred=True),
}
# Table 1: FGSM at the eps of the recipe, since its usual step of 4/3 eps ends on the ball.
FGSM = Attacked(steps=1, start="clean")
FGSM_CW = Attacked(steps=1, start="clean", loss="margin")

Figures = tuple[float, float, float, float, float, float]

# Table 6: alpha, beta, sigma and k as printed; figures in percent, in the order of MEASURES.
ROWS: tuple[tuple[str, Figures], ...] = (
    ("0 0 0.5 100k", (99.89, 98.97, 5.18, 1.95, 84.23, 86.21)),
    ("0 0 0.3 400k", (99.97, 99.07, 3.27, 0.83, 79.36, 81.61)),
    ("0 0 0.5 400k", (99.99, 99.09, 11.24, 17.52, 87.28, 89.44)),
    ("0 0.5 0.5 100k", (99.83, 99.06, 57.57, 55.77, 85.91, 87.48)),
    ("0 0.5 0.5 400k", (99.96, 99.21, 72.44, 72.39, 87.58, 89.48)),
    ("0 2.0 0.0 400k", (63.11, 64.14, 0.00, 0.00, 17.69, 24.52)),
    ("0 2.0 0.3 400k", (99.99, 97.17, 76.08, 76.28, 82.11, 85.80)),
    ("0 2.0 0.5 100k", (99.69, 99.05, 67.93, 66.38, 85.09, 86.29)),
    ("0 2.0 0.5 400k", (99.94, 99.21, 79.13, 78.36, 87.75, 89.47)),
    ("0 5.0 0.5 100k", (99.27, 99.02, 65.53, 62.00, 85.53, 86.64)),
    ("0 5.0 0.5 400k", (99.84, 99.18, 78.21, 77.29, 87.73, 89.25)),
    ("0 10.0 0.5 100k", (74.16, 75.76, 3.15, 2.43, 57.35, 61.55)),
    ("0 10.0 0.5 400k", (13.27, 12.93, 9.40, 8.88, 10.60, 11.00)),
    ("0 0 0.7 400k", (99.90, 99.08, 13.68, 22.95, 87.53, 89.14)),
    ("0 0 1.0 400k", (98.66, 98.17, 1.85, 9.33, 82.19, 83.09)),
    ("0.2 0 0 400k", (100.00, 99.36, 0.00, 0.00, 23.88, 29.33)),
    ("0.2 0 0.1 400k", (100.00, 99.39, 15.59, 17.91, 59.14, 63.73)),
    ("0.2 0 0.2 400k", (100.00, 99.41, 55.50, 56.63, 69.40, 76.46)),
    ("0.2 0 0.3 400k", (100.00, 99.40, 70.97, 73.71, 81.60, 85.38)),
    ("0.2 0 0.4 400k", (100.00, 99.33, 76.86, 80.07, 86.71, 88.75)),
    ("0.2 0 0.5 400k", (99.99, 99.20, 76.81, 79.55, 87.79, 89.50)),
    ("0.2 0 0.6 400k", (99.92, 99.16, 74.28, 75.19, 87.87, 89.43)),
    ("0.2 0 0.7 400k", (99.76, 99.04, 66.34, 70.96, 87.27, 88.60)),
    ("0.5 0 0.3 400k", (100.00, 99.36, 74.61, 75.10, 81.66, 86.26)),
    ("0.5 0 0.5 400k", (99.97, 99.29, 79.12, 79.24, 87.32, 89.28)),
    ("0.5 0 0.7 400k", (99.63, 98.90, 70.17, 70.16, 86.85, 87.49)),
    ("0.75 0 0 400k", (100.00, 99.37, 0.00, 0.00, 15.85, 21.26)),
    ("0.75 0 0.3 400k", (100.00, 99.41, 75.21, 75.62, 79.91, 84.10)),
    ("0.75 0 0.5 400k", (99.90, 99.23, 78.35, 79.60, 87.20, 88.83)),
    ("0.75 0 0.7 400k", (99.44, 98.71, 70.11, 69.95, 86.97, 87.99)),
    ("0.95 0 0 400k", (100.00, 99.21, 0.00, 0.00, 16.76, 19.81)),
    ("0.95 0 0.3 100k", (99.78, 99.38, 60.70, 61.93, 94.29, 77.21)),
    ("0.95 0 0.3 400k", (99.99, 99.44, 74.02, 75.46, 93.97, 85.00)),
    ("0.95 0 0.3 2M", (100.00, 99.25, 83.60, 85.39, 85.39, 87.22)),
    ("0.95 0 0.5 100k", (99.20, 99.01, 61.95, 60.80, 84.83, 86.02)),
    ("0.95 0 0.5 400k", (99.82, 99.23, 74.15, 73.19, 86.72, 87.87)),
    ("0.95 0 0.5 2M", (99.93, 98.98, 77.92, 82.05, 87.33, 88.78)),
)
# Table 6 prints these settings once more, with other results.
AGAIN: Mapping[str, Figures] = {
    "0 0 0.3 400k": (100.00, 99.42, 2.90, 1.06, 78.67, 80.67),
    "0 0 0.5 400k": (100.00, 99.23, 11.75, 19.64, 87.57, 89.71),
}
ADVERSARIAL: Figures = (100.0, 98.8, 93.20, 93.9, 96.08, 96.81)
# The rows of Table 6 that Table 2 shows too.
TABLE_2 = frozenset(
    {
        "0 0.5 0.5 400k",
        "0 2.0 0.0 400k",
        "0 2.0 0.3 400k",
        "0 2.0 0.5 400k",
        "0 5.0 0.5 400k",
        "0.2 0 0 400k",
        "0.2 0 0.1 400k",
        "0.2 0 0.3 400k",
        "0.2 0 0.7 400k",
        "0.95 0 0.3 100k",
        "0.95 0 0.3 400k",
        "0.95 0 0.3 2M",
        f"{MADRY} adv tr.",
    }
)
# The counterpart on MNIST of the CIFAR-10 model on which the paper runs stronger attacks.
SAMPLE = "0 0.5 0.5 100k"
# Figure 8 draws it, but no table has it.
SQUEEZED_WITHOUT_NOISE = "0 0.5 0.0 400k"


def slug(row: str) -> str:
    """Return how a row's settings, as printed, are written in the name of its recipe."""
    alpha, beta, sigma, k = row.split()
    defence = f"ls-{alpha}" if float(alpha) else f"lsq-{beta}" if float(beta) else "plain"
    return f"{defence}-sigma-{sigma}-{k}"


def iterations(k: str) -> int:
    """Return a number of training iterations as printed: "100k" is 100,000 and "2M" 2,000,000."""
    return int(k[:-1]) * {"k": 1_000, "M": 1_000_000}[k[-1]]


def table_1(row: str, x_ent: float, cw: float, predicted: float) -> tuple[Claim, ...]:
    """Return the claims of one row of Table 1, in percent."""
    return published(PAPER, "Table 1", row, {"x-ent": x_ent, "cw": cw, "Equation 4": predicted})


def _row(row: str, claims: tuple[Claim, ...]) -> Recipe:
    """Return the recipe of a row of settings as printed."""
    alpha, beta, sigma, k = row.split()
    return madry2018.mnist(
        f"001/mnist/{slug(row)}",
        f"{PAPER}, MNIST: alpha, beta, sigma, k = {row}",
        _objective(float(alpha), float(beta)),
        claims,
        iterations=iterations(k),
        augmentations=(GaussianNoise(float(sigma)),) if float(sigma) else (),
        surrogate=NATURAL,
    )


def _objective(alpha: float, beta: float) -> Objective:
    return label_smoothing(alpha) if alpha else frobenius_lsq(beta) if beta else plain()


def _claims(row: str, figures: Figures) -> tuple[Claim, ...]:
    values = dict(zip(MEASURES, figures, strict=True))
    claims = published(PAPER, "Table 2", row, values) if row in TABLE_2 else ()
    claims += published(PAPER, "Table 6", row, values)
    claims += (
        published(PAPER, "Table 6", f"{row} (second)", dict(zip(MEASURES, AGAIN[row], strict=True)))
        if row in AGAIN
        else ()
    )
    return claims + (shafahi2018_attacks.analogous_claims(PAPER) if row == SAMPLE else ())


def _madry(name: str, what: str, objective: Objective, claims: tuple[Claim, ...] = ()) -> Recipe:
    return madry2018.mnist(f"001/mnist/{name}", f"{PAPER}, MNIST: {what}", objective, claims, surrogate=NATURAL)


register(_madry("natural", "natural training", plain(), table_1("MNIST naturally trained", 7.05, 0.23, 0.0)))
for settings, printed in ROWS:
    register(_row(settings, _claims(settings, printed)))
register(_row(SQUEEZED_WITHOUT_NOISE, ()))
register(
    _madry(
        "adversarial",
        "adversarial training, 40 steps of 0.01",
        adversarial_training(madry2018.ADVERSARY),
        (*table_1("MNIST adv trained", 95.25, 95.41, 56.73), *_claims(f"{MADRY} adv tr.", ADVERSARIAL)),
    )
)
register(
    _madry(
        "adversarial-weak",
        "adversarial training against a weak adversary, 2 steps of 0.2",
        adversarial_training(PgdAdversary(madry2018.THREAT, steps=2, step_size=0.2)),
    )
)
