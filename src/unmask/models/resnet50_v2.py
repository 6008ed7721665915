"""ResNet-50 with pre-activation bottlenecks as in TF-slim, the Tiny ImageNet network of the public ALP code."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.convolution import same_padding
from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized
from unmask.models.normalize import centered


class PreActivationBottleneck(nn.Module):
    """Three times batch norm, ReLU, convolution (1x1, 3x3, 1x1), added to a shortcut (He et al. 2016, as in TF-slim).

    Where the channels change the shortcut is a 1x1 convolution of the activated input; elsewhere it takes every
    `stride`-th pixel of the raw one. The last convolution and the shortcut's have a bias.
    """

    def __init__(self, channels_in: int, inner: int, *, stride: int) -> None:
        super().__init__()
        channels_out = 4 * inner
        self.stride = stride
        self.norm1 = _batch_norm(channels_in)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride) if channels_in != channels_out else None
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.norm2 = _batch_norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm3 = _batch_norm(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to `(B, C', ceil(H/stride), ceil(W/stride))`."""
        active = F.relu(self.norm1(x))
        inner = self.conv2(F.relu(self.norm2(self.conv1(active))))
        residual: Tensor = self.conv3(F.relu(self.norm3(inner)))
        shortcut: Tensor = x[:, :, :: self.stride, :: self.stride] if self.shortcut is None else self.shortcut(active)
        return shortcut + residual


class ResNet50V2(nn.Module):
    """Map images `(B, 3, H, W)` in [0, 1] to logits `(B, K)`.

    The images are brought to [-1, 1]. A 7x7 stem of stride 2 with 3x3 max-pooling of stride 2, as for ImageNet, four
    stages of 3, 4, 6 and 3 bottlenecks (strides 2, 2, 2, 1, each in the stage's last unit), batch norm, ReLU, global
    average pooling and a dense layer. `width` is the number of the stem's channels.
    """

    def __init__(self, classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=2, padding=3)
        self.stages = nn.Sequential(
            _stage(width, width, units=3, stride=2),
            _stage(4 * width, 2 * width, units=4, stride=2),
            _stage(8 * width, 4 * width, units=6, stride=2),
            _stage(16 * width, 8 * width, units=3, stride=1),
        )
        self.norm = _batch_norm(32 * width)
        self.head = nn.Linear(32 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images without three channels."""
        check_image_shape(x, 3)
        features = F.relu(self.norm(self.stages(_pooled(self.stem(centered(x))))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet50_v2(classes: int, generator: torch.Generator) -> ResNet50V2:
    """Build the network with He initialisation (23,539,850 parameters for 10 classes)."""
    return initialized(lambda: ResNet50V2(classes), he_normal, generator)


def resnet50_v2_narrow(classes: int, generator: torch.Generator) -> ResNet50V2:
    """Build the same network of width 16, a sixteenth of the work (1,488,938 parameters for 10 classes)."""
    return initialized(lambda: ResNet50V2(classes, width=16), he_normal, generator)


def _stage(channels_in: int, inner: int, *, units: int, stride: int) -> nn.Sequential:
    widths, strides = [channels_in, *[4 * inner] * (units - 1)], [*[1] * (units - 1), stride]
    return nn.Sequential(
        *[PreActivationBottleneck(width, inner, stride=step) for width, step in zip(widths, strides, strict=True)]
    )


def _pooled(x: Tensor) -> Tensor:
    """Return TensorFlow's 'SAME' 3x3 maximum at stride 2, which pads an even size at its end alone."""
    top, bottom = same_padding(x.shape[2], 3, 2)
    left, right = same_padding(x.shape[3], 3, 2)
    return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, stride=2)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # TF-slim's decay of .997 is the share that is kept.
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.003)
