"""Training objectives: weighted terms and the adversary they need. The seeds' defences by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmask.errors import RecipeError
from unmask.streams import Streams
from unmask.training.adversary import PgdAdversary
from unmask.training.penalties import (
    Batch,
    Convention,
    Term,
    adversarial_logit_pairing,
    clean_logit_pairing,
    cross_entropy,
    frobenius_logit_squeezing,
    logit_squeezing,
)


@dataclass(frozen=True)
class Objective:
    """A sum of weighted terms, and the adversary that makes x_adv for those that need it.

    Raises RecipeError if there is no term, if two have one name, if a term needs adversarial images and there is no
    adversary, or if nothing needs them but one is given.
    """

    terms: tuple[Term, ...]
    adversary: PgdAdversary | None = None

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names:
            raise RecipeError("The objective has no terms: give at least one, such as cross_entropy().")
        if len(set(names)) < len(names):
            raise RecipeError(f"The objective's terms are {', '.join(names)}: give each its own name.")
        if self.needs("adversarial") and self.adversary is None:
            needy = ", ".join(term.name for term in self.terms if "adversarial" in term.needs)
            raise RecipeError(f"The terms {needy} need adversarial images: give the objective an adversary.")
        if self.adversary is not None and not self.needs("adversarial"):
            raise RecipeError("The objective has an adversary, but no term uses adversarial images.")

    def needs(self, half: str) -> bool:
        """Say whether any term reads this half ("clean" or "adversarial")."""
        return any(half in term.needs for term in self.terms)

    def losses(self, model: nn.Module, x: Tensor, y: Tensor, streams: Callable[[], Streams]) -> dict[str, Tensor]:
        """Return every term's unweighted value by name, from ONE train-mode forward of all images that are needed.

        x (B, C, H, W), y (B,); `streams` makes the adversary's random streams and is called only if there is one.
        """
        if self.adversary is None:
            batch = Batch(x, y, logits=model(x))
        elif not self.needs("clean"):
            x_adv = self.adversary(model, x, y, streams())
            batch = Batch(x, y, x_adv=x_adv, logits_adv=model(x_adv))
        else:
            x_adv = self.adversary(model, x, y, streams())
            logits, logits_adv = model(torch.cat([x, x_adv])).chunk(2)
            batch = Batch(x, y, logits, x_adv, logits_adv)
        return {term.name: term.function(batch) for term in self.terms}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms' values: a scalar."""
        return torch.stack([term.weight * losses[term.name] for term in self.terms]).sum()

    def describe(self) -> dict[str, object]:
        """Return the objective as plain values, for records and fingerprints."""
        adversary = None if self.adversary is None else self.adversary.describe()
        return {"terms": [term.describe() for term in self.terms], "adversary": adversary}


def plain() -> Objective:
    """Return cross-entropy on clean images."""
    return Objective((cross_entropy(),))


def label_smoothing(alpha: float, convention: Convention = "all_classes") -> Objective:
    """Return cross-entropy with smoothed labels; conventions as in `penalties.cross_entropy`."""
    return Objective((cross_entropy(label_smoothing=alpha, convention=convention),))


def clp(weight: float = 0.5) -> Objective:
    """Return clean logit pairing: CE(x) + weight * MSE of the logits of random pairs."""
    return Objective((cross_entropy(), clean_logit_pairing(weight)))


def lsq(weight: float = 0.5) -> Objective:
    """Return logit squeezing as Mosbach et al. train it: CE(x) + weight * mean ||z_i||_2."""
    return Objective((cross_entropy(), logit_squeezing(weight)))


def frobenius_lsq(beta: float) -> Objective:
    """Return logit squeezing as Shafahi et al. write it: summed CE + beta * ||Z||_F (Eq. 5)."""
    return Objective((cross_entropy(reduction="sum"), frobenius_logit_squeezing(beta)))


def adversarial_training(adversary: PgdAdversary, share: float = 1.0, pairing: float = 0.0) -> Objective:
    """Return (1 - share) * CE(x) + share * CE(x_adv) + pairing * MSE(z, z_adv).

    share 1 is Madry et al.'s adversarial training, .5 is Kannan et al.'s mixed-minibatch PGD, 0 with pairing is
    Plain + ALP.
    Raises RecipeError for a share outside [0, 1] or a negative pairing weight.
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"The adversarial share is {share}; expected a number between 0 and 1.")
    if pairing < 0:
        raise RecipeError(f"The pairing weight is {pairing}; expected 0 (none) or more.")
    terms = [cross_entropy(1 - share)] if share < 1 else []
    terms += [cross_entropy(share, on="adversarial")] if share > 0 else []
    terms += [adversarial_logit_pairing(pairing)] if pairing > 0 else []
    return Objective(tuple(terms), adversary)


def mixed_minibatch_pgd(adversary: PgdAdversary, pairing: float = 0.0) -> Objective:
    """Return Kannan et al.'s M-PGD: half clean, half adversarial cross-entropy, with ALP if `pairing` > 0."""
    return adversarial_training(adversary, share=0.5, pairing=pairing)


def plain_alp(adversary: PgdAdversary, pairing: float = 1.0) -> Objective:
    """Return Plain + ALP: adversarial images are only paired, there is no cross-entropy on them."""
    return Objective((cross_entropy(), adversarial_logit_pairing(pairing)), adversary)
