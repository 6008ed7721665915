"""Reversible residual networks, of which Kannan et al. 2018 trained one on SVHN."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.convolution import SameConv2d
from unmask.models.images import check_image_shape
from unmask.models.initialization import initialized, wide_normal
from unmask.models.reversible import ReversibleStage, ReversibleUnit
from unmask.models.shortcuts import PooledShortcut


class RevNet(nn.Module):
    """Map images `(B, 3, H, W)` in [0, 1] to logits `(B, K)` (Gomez et al. 2017, without bottlenecks).

    A 3x3 stem of `widths[0]` channels with batch norm and ReLU, one stage of `units[i]` reversible units with
    `widths[i + 1]` channels at `strides[i]` for each i, batch norm, ReLU, global average pooling and a dense layer.
    Widths are even. `recompute=False` keeps all activations: the same function, with memory that grows with depth.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: Sequence[int],
        units: Sequence[int],
        strides: Sequence[int],
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.stem = SameConv2d(3, widths[0], 3, bias=False)
        self.stem_norm = _batch_norm(widths[0])
        shapes = zip(widths, widths[1:], units, strides, strict=False)
        self.stages = nn.Sequential(
            *[
                ReversibleStage(
                    # The stem ends in batch norm and ReLU, with which a residual function would begin.
                    _units(channels_in, channels_out, units=count, stride=stride, activated=index == 0),
                    recompute=recompute,
                )
                for index, (channels_in, channels_out, count, stride) in enumerate(shapes)
            ]
        )
        self.norm = _batch_norm(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images without three channels."""
        check_image_shape(x, 3)
        features = self.stages(F.relu(self.stem_norm(self.stem(x))))
        logits: Tensor = self.head(F.relu(self.norm(features)).mean(dim=(2, 3)))
        return logits


def revnet_9(classes: int, generator: torch.Generator) -> RevNet:
    """Build the network of nine convolutions: a stem and two units (135,930 parameters for 10 classes).

    Kannan et al. 2018 name a RevNet-9 without saying how it is built, and Gomez et al. 2017 have none; these are the
    widths of RevNet-38 in the two stages that nine convolutions allow.
    """
    return initialized(
        lambda: RevNet(classes, widths=(32, 64, 112), units=(1, 1), strides=(1, 2)), wide_normal, generator
    )


def revnet_9_narrow(classes: int, generator: torch.Generator) -> RevNet:
    """Build `revnet_9` of half the widths (34,706 parameters for 10 classes)."""
    return initialized(
        lambda: RevNet(classes, widths=(16, 32, 56), units=(1, 1), strides=(1, 2)), wide_normal, generator
    )


def revnet_38(classes: int, generator: torch.Generator) -> RevNet:
    """Build the CIFAR network of Gomez et al. 2017, table 2 (464,890 parameters for 10 classes)."""
    return initialized(
        lambda: RevNet(classes, widths=(32, 32, 64, 112), units=(3, 3, 3), strides=(1, 2, 2)), wide_normal, generator
    )


def _units(channels_in: int, channels_out: int, *, units: int, stride: int, activated: bool) -> list[ReversibleUnit]:
    before, after = channels_in // 2, channels_out // 2
    first = ReversibleUnit(
        _residual(before, after, stride=stride, activated=activated),
        _residual(after, after),
        PooledShortcut(before, after, stride=stride),
    )
    return [first, *[ReversibleUnit(_residual(after, after), _residual(after, after)) for _ in range(units - 1)]]


def _residual(channels_in: int, channels_out: int, *, stride: int = 1, activated: bool = False) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    if not activated:
        layers |= {"norm1": _batch_norm(channels_in), "relu1": nn.ReLU()}
    layers["conv1"] = SameConv2d(channels_in, channels_out, 3, stride=stride, bias=False)
    layers |= {"norm2": _batch_norm(channels_out), "relu2": nn.ReLU()}
    layers["conv2"] = SameConv2d(channels_out, channels_out, 3, bias=False)
    return nn.Sequential(layers)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # The authors' code keeps .99 of the running statistics.
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
