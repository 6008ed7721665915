"""Classifiers that others trained load through `module:function` and reach their published accuracy."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unmask.models import load_model

DATA = Path(os.environ.get("UNMASK_DATA", "absent"))
MODELS = DATA.parent / "models"
MNIST = DATA / "MNIST" / "raw"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "UNMASK_DATA" not in os.environ or not (MODELS / "zoo.py").is_file() or not MNIST.is_dir(),
        reason="$UNMASK_DATA is not set, or lacks MNIST, or has no folder models/ beside it",
    ),
]

USER_CODE = f"""
import importlib.util

spec = importlib.util.spec_from_file_location("third_party_networks", {str(MODELS / "zoo.py")!r})
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)

mnist_trades = networks.TradesCNN
mnist_wk17a_mipverify = networks.BUILDERS["mnist_wk17a_mipverify"]
mnist_rsl18a = networks.BUILDERS["mnist_rsl18a"]
mnist_sdp_cnn_a_adv = networks.BUILDERS["mnist_sdp_cnn_a_adv"]
mnist_binary_cnn = networks.BinarizedCNN
cifar10_resnet2b = networks.BUILDERS["cifar10_resnet2b"]
"""

# Published clean accuracy on the 10,000 test images, in percent.
MNIST_ACCURACY = {
    "mnist_trades": 99.48,
    "mnist_wk17a_mipverify": 98.11,
    "mnist_rsl18a": 95.82,
    "mnist_sdp_cnn_a_adv": 96.33,
    "mnist_binary_cnn": 98.71,
}


def read_idx(name: str, offset: int) -> Tensor:
    data = gzip.decompress((MNIST / name).read_bytes())
    return torch.frombuffer(bytearray(data[offset:]), dtype=torch.uint8)


@pytest.mark.parametrize("name", MNIST_ACCURACY)
def test_mnist_classifiers_reach_their_published_accuracy(name: str, user_module: Callable[[str], str]) -> None:
    loaded = load_model(f"{user_module(USER_CODE)}:{name}", weights=MODELS / f"{name}.safetensors")
    # Every fifth image: the first half of the test set is harder than the second.
    images = read_idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[::5].float() / 255
    labels = read_idx("t10k-labels-idx1-ubyte.gz", 8)[::5]
    with torch.no_grad():
        correct = torch.cat([loaded.model(part) for part in images.split(500)]).argmax(1) == labels
    published = MNIST_ACCURACY[name] / 100
    standard_error = (published * (1 - published) / len(labels)) ** 0.5
    assert correct.float().mean().item() == pytest.approx(published, abs=2 * standard_error)


def test_normalisation_inside_the_users_model_is_loaded_too(user_module: Callable[[str], str]) -> None:
    name = "cifar10_resnet2b"
    spec = f"{user_module(USER_CODE)}:{name}"
    loaded = load_model(spec, weights=MODELS / f"{name}.safetensors")
    assert isinstance(loaded.model, nn.Module)
    assert loaded.source == f"{spec} with weights {MODELS / name}.safetensors"
    assert "mean" in loaded.model.state_dict()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    untrained = load_model(spec).model(images)
    assert not torch.allclose(loaded.model(images), untrained)
