"""Kannan et al. 2018, "Adversarial logit pairing": Table 1 (MNIST).

The paper takes Madry et al.'s network and attack. Optimizer and length it leaves open: here they are Madry's too.
All figures are for PGD with one start; black-box examples come from an adversarially trained copy.
"""

from __future__ import annotations

from unmask.recipes import madry2018
from unmask.recipes.recipe import Recipe, published, recipe
from unmask.training import mixed_minibatch_pgd

PAPER = "Kannan et al. 2018"


def _mnist(method: str, *, pairing: float, white_box: float, black_box: float, clean: float) -> Recipe:
    return madry2018.mnist(
        f"002/mnist/{method.lower()}",
        f"{PAPER}, MNIST: {method}",
        mixed_minibatch_pgd(madry2018.ADVERSARY, pairing),
        published(PAPER, "Table 1", method, {"white box": white_box, "black box": black_box, "clean": clean}),
    )


@recipe
def mnist_m_pgd() -> Recipe:
    """Mixed-minibatch PGD: half clean, half adversarial cross-entropy."""
    return _mnist("M-PGD", pairing=0.0, white_box=93.2, black_box=96.0, clean=98.5)


@recipe
def mnist_alp() -> Recipe:
    """Mixed-minibatch PGD with adversarial logit pairing, weight 1."""
    return _mnist("ALP", pairing=1.0, white_box=96.4, black_box=97.5, clean=98.8)
