"""WRN-28-10 with the blocks of Madry et al. 2018, the CIFAR-10 network of Shafahi et al. 2018."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.convolution import SameConv2d
from unmask.models.images import check_image_shape
from unmask.models.initialization import initialized, wide_normal
from unmask.models.normalize import PerImageStandardize
from unmask.models.shortcuts import PooledShortcut

LEAK = 0.1


class LeakyBlock(nn.Module):
    """Two times batch norm, leaky ReLU, 3x3 convolution, added to a shortcut without parameters.

    `share_activation` starts the shortcut after the first leaky ReLU, not at the raw input.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, share_activation: bool) -> None:
        super().__init__()
        self.share_activation = share_activation
        self.norm1 = _batch_norm(channels_in)
        self.conv1 = SameConv2d(channels_in, channels_out, 3, stride=stride, bias=False)
        self.norm2 = _batch_norm(channels_out)
        self.conv2 = SameConv2d(channels_out, channels_out, 3, bias=False)
        self.shortcut = PooledShortcut(channels_in, channels_out, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to `(B, C', H/stride, W/stride)`."""
        active = F.leaky_relu(self.norm1(x), LEAK)
        residual: Tensor = self.conv2(F.leaky_relu(self.norm2(self.conv1(active)), LEAK))
        shortcut: Tensor = self.shortcut(active if self.share_activation else x)
        return residual + shortcut


class WideResNet(nn.Module):
    """Map images `(B, 3, H, W)` in [0, 1] to logits `(B, K)`.

    Per-image standardisation, a 3x3 stem of 16 channels, three stages of `units` blocks (widths 16k, 32k, 64k for
    k = `widening`; strides 1, 2, 2), batch norm, leaky ReLU, global average pooling and a dense layer. The usual name
    WRN-d-k has d = 6 `units` + 4.
    """

    def __init__(self, classes: int, *, units: int = 4, widening: int = 10) -> None:
        super().__init__()
        widths = [16 * widening, 32 * widening, 64 * widening]
        self.standardize = PerImageStandardize()
        self.stem = SameConv2d(3, 16, 3, bias=False)
        self.stages = nn.Sequential(
            _stage(16, widths[0], units=units, stride=1, share_activation=True),
            _stage(widths[0], widths[1], units=units, stride=2, share_activation=False),
            _stage(widths[1], widths[2], units=units, stride=2, share_activation=False),
        )
        self.norm = _batch_norm(widths[2])
        self.head = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images without three channels."""
        check_image_shape(x, 3)
        features = self.stages(self.stem(self.standardize(x)))
        features = F.leaky_relu(self.norm(features), LEAK)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def wrn_28_10(classes: int, generator: torch.Generator) -> WideResNet:
    """Build the network of depth 28 and widening 10 (36,220,634 parameters for 10 classes)."""
    return initialized(lambda: WideResNet(classes), wide_normal, generator)


def wrn_10_1(classes: int, generator: torch.Generator) -> WideResNet:
    """Build the network of depth 10 and widening 1 (75,290 parameters for 10 classes)."""
    return initialized(lambda: WideResNet(classes, units=1, widening=1), wide_normal, generator)


def _stage(channels_in: int, channels_out: int, *, units: int, stride: int, share_activation: bool) -> nn.Sequential:
    first = LeakyBlock(channels_in, channels_out, stride=stride, share_activation=share_activation)
    rest = [LeakyBlock(channels_out, channels_out, stride=1, share_activation=False) for _ in range(units - 1)]
    return nn.Sequential(first, *rest)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's decay of .9 and its default epsilon.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)
