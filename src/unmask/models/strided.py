"""A small MNIST network that halves images by strides: an eighth of a LeNet's cost per pass, and kind to attacks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized


class StridedCNN(nn.Module):
    """Map images `(B, 1, 28, 28)` in [0, 1] to logits `(B, K)` by two strided 4x4 convolutions and two dense layers.

    The form of Wong & Kolter 2018, with which Wong et al. 2020 train by single steps.
    """

    def __init__(self, classes: int, *, channels: tuple[int, int], hidden: int) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2, padding=1)
        self.dense = nn.Linear(7 * 7 * second, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images of another shape."""
        check_image_shape(x, 1, 28)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        logits: Tensor = self.head(F.relu(self.dense(x.flatten(1))))
        return logits


def strided_cnn(classes: int, generator: torch.Generator) -> StridedCNN:
    """Build it with 16 and 32 channels and 100 hidden units (166,406 parameters for 10 classes)."""
    return initialized(lambda: StridedCNN(classes, channels=(16, 32), hidden=100), he_normal, generator)


def strided_cnn_wide(classes: int, generator: torch.Generator) -> StridedCNN:
    """Build it with 32 and 64 channels and 256 hidden units (839,018 parameters for 10 classes)."""
    return initialized(lambda: StridedCNN(classes, channels=(32, 64), hidden=256), he_normal, generator)
