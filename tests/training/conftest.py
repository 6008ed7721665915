"""What the tests of training share: few images, small networks, one thread."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from unmask.data import DataSet, load_data
from unmask.models import build
from unmask.streams import derive_generator


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep sums in one order, so that equal runs give equal bits, and small work off the other cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    return load_data("digits", "train")


@pytest.fixture(scope="session")
def few(digits: DataSet) -> DataSet:
    """80 images: with batches of 32, two full ones and half a one."""
    return digits.first(80)


class Small(nn.Module):
    """A network with batch norm, in whose forwards a test can look: (in train mode, images) each."""

    def __init__(self, channels: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)
        self.seen: list[tuple[bool, Tensor]] = []
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        logits: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return logits


@pytest.fixture
def small() -> Small:
    return Small()


@pytest.fixture
def network() -> nn.Module:
    return build("digits-cnn", generator=derive_generator("network"))


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Six images (6, 1, 8, 8) strictly inside the box, and labels."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(6, 1, 8, 8, generator=generator) * 0.8 + 0.1, torch.tensor([0, 1, 2, 3, 4, 5])
