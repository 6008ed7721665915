"""A small network for the 8x8 digits of scikit-learn."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized


class DigitsCNN(nn.Module):
    """Map images `(B, 1, 8, 8)` in [0, 1] to logits `(B, K)` by conv, conv, pool, dense, dense."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding="same")
        self.conv2 = nn.Conv2d(32, 64, 3, padding="same")
        self.dense = nn.Linear(4 * 4 * 64, 128)
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images of another shape."""
        check_image_shape(x, 1, 8)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        logits: Tensor = self.head(F.relu(self.dense(F.max_pool2d(x, 2).flatten(1))))
        return logits


def digits_cnn(classes: int, generator: torch.Generator) -> DigitsCNN:
    """Build the network with He initialisation (151,306 parameters for 10 classes)."""
    return initialized(lambda: DigitsCNN(classes), he_normal, generator)
