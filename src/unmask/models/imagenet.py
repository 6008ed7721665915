"""The ImageNet networks of Kannan et al. 2018, as torchvision builds them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized
from unmask.models.normalize import centered

INCEPTION_SMALLEST = 75
NARROWING = 8  # every width of Inception v3 but the stem's 3 channels is a multiple of 16


class ImageNetNetwork(nn.Module):
    """Map images `(B, 3, H, W)` in [0, 1] to logits `(B, K)` by one of torchvision's networks.

    The images are brought to [-1, 1]. `body` is a network whose last layer, `fc`, is replaced by a dense layer of
    `classes`; it takes images of `smallest` pixels a side or more.
    """

    def __init__(self, body: nn.Module, classes: int, *, smallest: int) -> None:
        super().__init__()
        last = body.get_submodule("fc")
        assert isinstance(last, nn.Linear)
        body.set_submodule("fc", nn.Identity())
        self.smallest = smallest
        self.body = body
        self.head = nn.Linear(last.in_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, K)`; raises ModelError for images without three channels or too small."""
        check_image_shape(x, 3, smallest=self.smallest)
        logits: Tensor = self.head(self.body(centered(x)))
        return logits


class Enlarge(nn.Module):
    """Enlarge images `(B, C, H, W)` bilinearly until no side is shorter than `side` pixels; larger ones pass as are."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Return images `(B, C, max(H, side), max(W, side))`."""
        height, width = (max(size, self.side) for size in x.shape[2:])
        if (height, width) == tuple(x.shape[2:]):
            return x
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def resnet101(classes: int, generator: torch.Generator) -> ImageNetNetwork:
    """Build ResNet-101 with He initialisation (42,520,650 parameters for 10 classes); its 3x3 convolutions stride."""
    from torchvision.models import resnet101  # slow to import, and no other network needs it

    return initialized(lambda: ImageNetNetwork(resnet101(), classes, smallest=1), he_normal, generator)


def resnet101_narrow(classes: int, generator: torch.Generator) -> ImageNetNetwork:
    """Build one bottleneck per stage, an eighth as wide inside (3,124,330 parameters for 10 classes)."""
    from torchvision.models.resnet import Bottleneck, ResNet  # slow to import, and no other network needs it

    def make() -> ImageNetNetwork:
        return ImageNetNetwork(ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8), classes, smallest=1)

    return initialized(make, he_normal, generator)


def inception_v3(classes: int, generator: torch.Generator) -> ImageNetNetwork:
    """Build Inception v3 with He initialisation (21,806,058 parameters for 10 classes).

    Without the auxiliary classifier, whose logits only some trainings use, and without dropout, whose draws would come
    from the global random state.
    """
    from torchvision.models import inception_v3  # slow to import, and no other network needs it

    def make() -> ImageNetNetwork:
        body = inception_v3(aux_logits=False, init_weights=False, dropout=0.0)
        return ImageNetNetwork(body, classes, smallest=INCEPTION_SMALLEST)

    return initialized(make, he_normal, generator)


def inception_v3_narrow(classes: int, generator: torch.Generator) -> nn.Sequential:
    """Build Inception v3 with an eighth of every width (346,830 parameters for 10 classes).

    Smaller images than Inception can take are enlarged first.
    """
    from torchvision.models import inception  # slow to import, and no other network needs it

    def convolution(channels_in: int, channels_out: int, **settings: Any) -> nn.Module:
        narrowed = channels_in if channels_in == 3 else channels_in // NARROWING
        made: nn.Module = inception.BasicConv2d(narrowed, channels_out // NARROWING, **settings)
        return made

    mixed = (
        inception.InceptionA,
        inception.InceptionB,
        inception.InceptionC,
        inception.InceptionD,
        inception.InceptionE,
        inception.InceptionAux,
    )

    def make() -> nn.Sequential:
        blocks = [convolution, *[partial(block, conv_block=convolution) for block in mixed]]
        body = inception.Inception3(aux_logits=False, init_weights=False, dropout=0.0, inception_blocks=blocks)
        body.fc = nn.Linear(body.fc.in_features // NARROWING, classes)
        return nn.Sequential(Enlarge(INCEPTION_SMALLEST), ImageNetNetwork(body, classes, smallest=INCEPTION_SMALLEST))

    return initialized(make, he_normal, generator)
