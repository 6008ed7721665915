"""The ImageNet networks of Kannan et al. 2018, as torchvision builds them."""

import torch
from torch import Tensor, nn

from unmask.models.images import check_image_shape
from unmask.models.initialization import he_normal, initialized
from unmask.models.normalize import centered


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


def resnet101(classes: int, generator: torch.Generator) -> ImageNetNetwork:
    """Build ResNet-101 with He initialisation (42,520,650 parameters for 10 classes); its 3x3 convolutions stride."""
    from torchvision.models import resnet101  # slow to import, and no other network needs it

    return initialized(lambda: ImageNetNetwork(resnet101(), classes, smallest=1), he_normal, generator)


def inception_v3(classes: int, generator: torch.Generator) -> ImageNetNetwork:
    """Build Inception v3 with He initialisation (21,806,058 parameters for 10 classes).

    Without the auxiliary classifier, whose logits only some trainings use, and without dropout, whose draws would come
    from the global random state.
    """
    from torchvision.models import inception_v3  # slow to import, and no other network needs it

    def make() -> ImageNetNetwork:
        body = inception_v3(aux_logits=False, init_weights=False, dropout=0.0)
        return ImageNetNetwork(body, classes, smallest=75)

    return initialized(make, he_normal, generator)
