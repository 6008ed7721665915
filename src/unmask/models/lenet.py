"""The MNIST networks of the seeds: two convolutions with max-pooling and two dense layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized, truncated_normal


class LeNet(nn.Module):
    """Map images `(B, 1, 28, 28)` in [0, 1] to logits `(B, K)` by conv, pool, conv, pool, dense, dense."""

    def __init__(self, classes: int, *, channels: tuple[int, int], kernel: int, hidden: int) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, kernel, padding="same")
        self.conv2 = nn.Conv2d(first, second, kernel, padding="same")
        self.dense = nn.Linear(7 * 7 * second, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images of another shape."""
        check_image_shape(x, 1, 28)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: Tensor = self.head(F.relu(self.dense(x.flatten(1))))
        return logits


def lenet(classes: int, generator: torch.Generator) -> LeNet:
    """Build the 3x3 network with He initialisation of Mosbach et al. 2018 (3,241,354 parameters for 10 classes)."""
    return initialized(lambda: LeNet(classes, channels=(32, 64), kernel=3, hidden=1024), he_normal, generator)


def lenet_half(classes: int, generator: torch.Generator) -> LeNet:
    """Build `lenet` with half the channels and a quarter of the hidden units (weights under 1 MB in 16 bits)."""
    return initialized(lambda: LeNet(classes, channels=(16, 32), kernel=3, hidden=256), he_normal, generator)


def lenet_madry(classes: int, generator: torch.Generator) -> LeNet:
    """Build the 5x5 network of Madry et al. 2018 (3,274,634 parameters for 10 classes)."""
    return initialized(lambda: LeNet(classes, channels=(32, 64), kernel=5, hidden=1024), truncated_normal, generator)
