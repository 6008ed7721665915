"""Training: objectives of weighted terms, the adversary inside, one loop, exact resume."""

from unmask.training.adversary import PgdAdversary
from unmask.training.augment import CropAndFlip, GaussianNoise
from unmask.training.loop import Progress, Training, fit
from unmask.training.objectives import (
    Objective,
    adversarial_training,
    clp,
    frobenius_lsq,
    label_smoothing,
    lsq,
    mixed_minibatch_pgd,
    plain,
    plain_alp,
)
from unmask.training.optimizers import ConstantRate, CosineRate, Optimizer, StaircaseRate, StepRate
from unmask.training.tensorboard import tensorboard_log

__all__ = [
    "ConstantRate",
    "CosineRate",
    "CropAndFlip",
    "GaussianNoise",
    "Objective",
    "Optimizer",
    "PgdAdversary",
    "Progress",
    "StaircaseRate",
    "StepRate",
    "Training",
    "adversarial_training",
    "clp",
    "fit",
    "frobenius_lsq",
    "label_smoothing",
    "lsq",
    "mixed_minibatch_pgd",
    "plain",
    "plain_alp",
    "tensorboard_log",
]
