"""Attacks: pure functions from a model and images to the best perturbed images found.

Called alike: `attack(model, x, y, *, threat, generator, target=None, ...) -> AttackResult`. x is float in [0, 1],
(B, C, H, W); y is int64 (B,). An attack's word is never final: audits verify every break again.
"""

from unmask.attacks.apgd import apgd, targeted_apgd
from unmask.attacks.bim import bim
from unmask.attacks.cosine_pgd import cosine_pgd
from unmask.attacks.fab import fab
from unmask.attacks.fast_passes import half_precision
from unmask.attacks.fgsm import fgsm
from unmask.attacks.fmn import fmn
from unmask.attacks.gama import gama
from unmask.attacks.hop_skip_jump import hop_skip_jump
from unmask.attacks.md import md
from unmask.attacks.mi_fgsm import mi_fgsm
from unmask.attacks.mifpe import mifpe
from unmask.attacks.minimal_perturbations import minimal_perturbations
from unmask.attacks.pgd import pgd
from unmask.attacks.pma import pma
from unmask.attacks.problem import AttackResult
from unmask.attacks.r_fgsm import r_fgsm
from unmask.attacks.random_noise import random_noise
from unmask.attacks.spsa import spsa
from unmask.attacks.square import square
from unmask.attacks.targeted_pgd import targeted_pgd
from unmask.attacks.transfer import transfer

ATTACKS = {
    "fgsm": fgsm,
    "r_fgsm": r_fgsm,
    "bim": bim,
    "mi_fgsm": mi_fgsm,
    "pgd": pgd,
    "cosine_pgd": cosine_pgd,
    "targeted_pgd": targeted_pgd,
    "apgd": apgd,
    "targeted_apgd": targeted_apgd,
    "md": md,
    "pma": pma,
    "gama": gama,
    "mifpe": mifpe,
    "spsa": spsa,
    "square": square,
    "random_noise": random_noise,
    "fab": fab,
    "fmn": fmn,
    "hop_skip_jump": hop_skip_jump,
    "transfer": transfer,
}

__all__ = [
    "ATTACKS",
    "AttackResult",
    "apgd",
    "bim",
    "cosine_pgd",
    "fab",
    "fgsm",
    "fmn",
    "gama",
    "half_precision",
    "hop_skip_jump",
    "md",
    "mi_fgsm",
    "mifpe",
    "minimal_perturbations",
    "pgd",
    "pma",
    "r_fgsm",
    "random_noise",
    "spsa",
    "square",
    "targeted_apgd",
    "targeted_pgd",
    "transfer",
]
