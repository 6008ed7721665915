"""Training: objectives of weighted terms, the adversary inside, one loop, exact resume."""

from unmask.training.adversary import Adversary, EnsembleAdversary, FreeAdversary, PgdAdversary, VirtualAdversary
from unmask.training.augment import CropAndFlip, GaussianNoise
from unmask.training.loop import Progress, Training, fit
from unmask.training.objectives import (
    Objective,
    adversarial_training,
    clp,
    fast_adversarial_training,
    free_adversarial_training,
    frobenius_lsq,
    label_smoothing,
    lsq,
    mart,
    mixed_minibatch_pgd,
    paired_features,
    plain,
    plain_alp,
    trades,
    vat,
)
from unmask.training.optimizers import ConstantRate, CosineRate, Optimizer, StaircaseRate, StepRate
from unmask.training.tensorboard import tensorboard_log
from unmask.training.validation import Validation
from unmask.training.weights import WeightAdversary

__all__ = [
    "Adversary",
    "ConstantRate",
    "CosineRate",
    "CropAndFlip",
    "EnsembleAdversary",
    "FreeAdversary",
    "GaussianNoise",
    "Objective",
    "Optimizer",
    "PgdAdversary",
    "Progress",
    "StaircaseRate",
    "StepRate",
    "Training",
    "Validation",
    "VirtualAdversary",
    "WeightAdversary",
    "adversarial_training",
    "clp",
    "fast_adversarial_training",
    "fit",
    "free_adversarial_training",
    "frobenius_lsq",
    "label_smoothing",
    "lsq",
    "mart",
    "mixed_minibatch_pgd",
    "paired_features",
    "plain",
    "plain_alp",
    "tensorboard_log",
    "trades",
    "vat",
]
