"""ResNet-20 with pre-activation blocks, the CIFAR-10 network of Mosbach et al. 2018."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.convolution import SameConv2d
from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized


class PreActivationBlock(nn.Module):
    """Two times batch norm, ReLU, 3x3 convolution, added to the block's raw input (He et al. 2016, fig. 4e).

    `project` replaces the identity by a 1x1 convolution of the raw input, without batch norm.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.norm1 = _batch_norm(channels_in)
        self.conv1 = SameConv2d(channels_in, channels_out, 3, stride=stride, bias=False)
        self.norm2 = _batch_norm(channels_out)
        self.conv2 = SameConv2d(channels_out, channels_out, 3, bias=False)
        self.shortcut: nn.Module = (
            SameConv2d(channels_in, channels_out, 1, stride=stride, bias=False) if project else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to `(B, C', H/stride, W/stride)`."""
        inner = self.conv1(F.relu(self.norm1(x)))
        residual: Tensor = self.conv2(F.relu(self.norm2(inner)))
        shortcut: Tensor = self.shortcut(x)
        return shortcut + residual


class ResNet20V2(nn.Module):
    """Map images `(B, 3, H, W)` in [0, 1] to logits `(B, K)`.

    A 3x3 stem, three stages of three blocks (widths w, 2w, 4w; strides 1, 2, 2), each stage's first block with a
    projection, a ReLU without batch norm, global average pooling and a dense layer.
    """

    def __init__(self, classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.stem = SameConv2d(3, width, 3, bias=False)
        self.stages = nn.Sequential(
            _stage(width, width, stride=1),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images without three channels."""
        check_image_shape(x, 3)
        features = F.relu(self.stages(self.stem(x)))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet20_v2(classes: int, generator: torch.Generator) -> ResNet20V2:
    """Build the network of width 64 with He initialisation (4,330,570 parameters for 10 classes)."""
    return initialized(lambda: ResNet20V2(classes), he_normal, generator)


def resnet20_v2_narrow(classes: int, generator: torch.Generator) -> ResNet20V2:
    """Build the same network of width 16, a sixteenth of the work (272,410 parameters for 10 classes)."""
    return initialized(lambda: ResNet20V2(classes, width=16), he_normal, generator)


def _stage(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        PreActivationBlock(channels_in, channels_out, stride=stride, project=True),
        PreActivationBlock(channels_out, channels_out, stride=1, project=False),
        PreActivationBlock(channels_out, channels_out, stride=1, project=False),
    )


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's decay of .999 is the share that is kept; torch's momentum is the share that is replaced.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.001)
