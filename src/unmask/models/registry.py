"""The networks that can be built by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from unmask.errors import ModelError, unknown
from unmask.models.digits import digits_cnn
from unmask.models.imagenet import inception_v3, inception_v3_narrow, resnet101, resnet101_narrow
from unmask.models.lenet import lenet, lenet_half, lenet_madry
from unmask.models.resnet import resnet20_v2, resnet20_v2_narrow
from unmask.models.resnet50_v2 import resnet50_v2, resnet50_v2_narrow
from unmask.models.revnet import revnet_9, revnet_9_narrow, revnet_38
from unmask.models.strided import strided_cnn, strided_cnn_wide
from unmask.models.wide_resnet import wrn_10_1, wrn_28_10

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Architecture:
    """A network that can be built: `build(classes, generator)` for images of `input_shape` (C, H, W) in [0, 1]."""

    name: str
    build: Callable[[int, torch.Generator], nn.Module]
    input_shape: tuple[int, int, int]
    summary: str


_ALL = (
    Architecture("lenet", lenet, (1, 28, 28), "3x3 LeNet for MNIST, He initialisation (Mosbach et al. 2018)"),
    Architecture("lenet-half", lenet_half, (1, 28, 28), "lenet with half the channels and 256 hidden units"),
    Architecture("lenet-madry", lenet_madry, (1, 28, 28), "5x5 LeNet for MNIST (Madry et al. 2018)"),
    Architecture("strided-cnn", strided_cnn, (1, 28, 28), "two strided convolutions (Wong & Kolter 2018)"),
    Architecture(
        "strided-cnn-wide", strided_cnn_wide, (1, 28, 28), "strided-cnn with twice the channels, 256 hidden units"
    ),
    Architecture("resnet20-v2", resnet20_v2, (3, 32, 32), "pre-activation ResNet-20, width 64 (Mosbach et al. 2018)"),
    Architecture("resnet20-v2-narrow", resnet20_v2_narrow, (3, 32, 32), "resnet20-v2 of width 16, for small machines"),
    Architecture("wrn-28-10", wrn_28_10, (3, 32, 32), "wide ResNet with Madry's blocks (Shafahi et al. 2018)"),
    Architecture("wrn-10-1", wrn_10_1, (3, 32, 32), "wrn-28-10 of depth 10 and widening 1, for small machines"),
    Architecture(
        "revnet-9", revnet_9, (3, 32, 32), "reversible ResNet of 9 convolutions, for SVHN (Kannan et al. 2018)"
    ),
    Architecture("revnet-9-narrow", revnet_9_narrow, (3, 32, 32), "revnet-9 of half the widths, for small machines"),
    Architecture("revnet-38", revnet_38, (3, 32, 32), "reversible ResNet for CIFAR (Gomez et al. 2017)"),
    Architecture("resnet50-v2", resnet50_v2, (3, 64, 64), "pre-activation ResNet-50 of TF-slim, for Tiny ImageNet"),
    Architecture("resnet50-v2-narrow", resnet50_v2_narrow, (3, 64, 64), "resnet50-v2 of width 16, for small machines"),
    Architecture("resnet101", resnet101, (3, 224, 224), "torchvision's ResNet-101, for ImageNet (Kannan et al. 2018)"),
    Architecture(
        "resnet101-narrow",
        resnet101_narrow,
        (3, 64, 64),
        "four of resnet101's bottlenecks, an eighth as wide inside, for small machines",
    ),
    Architecture(
        "inception-v3", inception_v3, (3, 299, 299), "torchvision's Inception v3, for ImageNet (Kannan et al. 2018)"
    ),
    Architecture(
        "inception-v3-narrow",
        inception_v3_narrow,
        (3, 64, 64),
        "inception-v3 with an eighth of every width, images enlarged to 75 pixels, for small machines",
    ),
    Architecture("digits-cnn", digits_cnn, (1, 8, 8), "small network for the 8x8 digits of scikit-learn"),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}


def build(name: str, *, classes: int = 10, generator: torch.Generator | None = None) -> nn.Module:
    """Return the named network, on the CPU and in train mode, initialised from `generator` alone (seed 0 by default).

    The network maps images `(B, *input_shape)` in [0, 1] to logits `(B, classes)`. Raises ModelError for an unknown
    name or a number of classes outside 2 to 100,000.
    """
    if name not in ARCHITECTURES:
        raise ModelError(unknown("architecture", name, ARCHITECTURES))
    if type(classes) is not int or not 2 <= classes <= MOST_CLASSES:
        raise ModelError(f"A model of {classes!r} classes was asked for; give a whole number from 2 to {MOST_CLASSES}.")
    return ARCHITECTURES[name].build(classes, generator or torch.Generator().manual_seed(0))
