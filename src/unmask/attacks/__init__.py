"""Attacks: pure functions from a model and images to the best perturbed images found.

Called alike: `attack(model, x, y, *, threat, generator, target=None, ...) -> AttackResult`. x is float in [0, 1],
(B, C, H, W); y is int64 (B,). An attack's word is never final: audits verify every break again.
"""

from unmask.attacks.bim import bim
from unmask.attacks.cosine_pgd import cosine_pgd
from unmask.attacks.fgsm import fgsm
from unmask.attacks.mi_fgsm import mi_fgsm
from unmask.attacks.pgd import pgd
from unmask.attacks.problem import AttackResult
from unmask.attacks.r_fgsm import r_fgsm
from unmask.attacks.random_noise import random_noise
from unmask.attacks.spsa import spsa
from unmask.attacks.targeted_pgd import targeted_pgd

ATTACKS = {
    "fgsm": fgsm,
    "r_fgsm": r_fgsm,
    "bim": bim,
    "mi_fgsm": mi_fgsm,
    "pgd": pgd,
    "cosine_pgd": cosine_pgd,
    "targeted_pgd": targeted_pgd,
    "spsa": spsa,
    "random_noise": random_noise,
}

__all__ = [
    "ATTACKS",
    "AttackResult",
    "bim",
    "cosine_pgd",
    "fgsm",
    "mi_fgsm",
    "pgd",
    "r_fgsm",
    "random_noise",
    "spsa",
    "targeted_pgd",
]
