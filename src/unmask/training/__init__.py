"""Training: objectives of weighted terms, the adversary inside, one loop, exact resume."""

from unmask.training.adversary import Adversary, EnsembleAdversary, FreeAdversary, PgdAdversary, VirtualAdversary
from unmask.training.augment import CropAndFlip, GaussianNoise, ResizedCrop, Saturation
from unmask.training.logging import LOGGERS, tensorboard_log, training_log
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
from unmask.training.optimizers import ConstantRate, CosineRate, CyclicRate, Optimizer, StaircaseRate, StepRate
from unmask.training.validation import Validation
from unmask.training.weights import WeightAdversary

__all__ = [
    "LOGGERS",
    "Adversary",
    "ConstantRate",
    "CosineRate",
    "CropAndFlip",
    "CyclicRate",
    "EnsembleAdversary",
    "FreeAdversary",
    "GaussianNoise",
    "Objective",
    "Optimizer",
    "PgdAdversary",
    "Progress",
    "ResizedCrop",
    "Saturation",
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
    "training_log",
    "vat",
]
