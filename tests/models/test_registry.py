"""Networks built by name: shapes, reproducible initialisation, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unmask.errors import ModelError
from unmask.models import ARCHITECTURES, build
from unmask.models.initialization import he_normal, initialized

HE = [
    "lenet",
    "lenet-half",
    "strided-cnn",
    "strided-cnn-wide",
    "digits-cnn",
    "resnet20-v2",
    "resnet50-v2",
    "inception-v3",
    "resnet20-v2-narrow",
    "resnet50-v2-narrow",
    "resnet101-narrow",
    "inception-v3-narrow",
]
# TensorFlow's constants: epsilon, the share of the statistics that a step replaces, and how many layers have them.
BATCH_NORM = {
    "resnet20-v2": (1e-3, 0.001, 18),
    "wrn-28-10": (1e-3, 0.1, 25),
    "revnet-9": (1e-3, 0.01, 2 + 2 * 4 - 1),
    "revnet-38": (1e-3, 0.01, 2 + 9 * 4 - 1),
    "resnet50-v2": (1e-5, 0.003, 16 * 3 + 1),
}
# Height and width, small where the network leaves them free.
SIZES = {
    "revnet-9": 16,
    "revnet-38": 16,
    "resnet50-v2": 32,
    "resnet101": 32,
    "resnet101-narrow": 32,
    "inception-v3": 75,
    "inception-v3-narrow": 64,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_maps_images_to_finite_logits(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.name == name
    assert architecture.summary
    images = torch.rand(2, *architecture.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = build(name, classes=7).eval()(images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", SIZES)
def test_train_mode_returns_logits_whose_gradient_reaches_everything(name: str) -> None:
    network, generator = build(name, classes=3).train(), torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, SIZES[name], SIZES[name], generator=generator)
    logits = network(images.requires_grad_())
    assert isinstance(logits, torch.Tensor) and logits.shape == (2, 3)
    logits.square().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initialisation_leaves_the_global_random_state_alone(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_initialisation_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    first = build(name, generator=torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(2)
    again = build(name, generator=torch.Generator().manual_seed(5)).state_dict()
    other = build(name, generator=torch.Generator().manual_seed(6)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key, value in first.items() if key.endswith("weight") and value.ndim > 1]
    assert drawn
    assert all(not torch.equal(first[key], other[key]) for key in drawn)


def test_seed_0_is_the_default() -> None:
    first = build("digits-cnn").state_dict()
    same = build("digits-cnn", generator=torch.Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(first[key], same[key]) for key in first)


def test_the_generator_moves_on_so_that_two_networks_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = build("digits-cnn", generator=generator), build("digits-cnn", generator=generator)
    assert not torch.equal(first.state_dict()["head.weight"], second.state_dict()["head.weight"])


@pytest.mark.parametrize("name", HE)
def test_he_initialisation(name: str) -> None:
    for layer in build(name).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() > 4000:
            fan_in = layer.weight[0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
            assert layer.weight.abs().max() > 2.5 * (2 / fan_in) ** 0.5, "the normal is not cut"
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            assert (layer.bias == 0).all()


def test_truncated_normal_of_madrys_network() -> None:
    for layer in build("lenet-madry").modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.abs().max() <= 0.2
            assert (layer.bias == 0.1).all()
    dense = build("lenet-madry").state_dict()["dense.weight"]
    # A normal cut at two standard deviations keeps .8796 of its standard deviation.
    assert dense.std().item() == pytest.approx(0.08796, rel=0.01)


@pytest.mark.parametrize(("name", "stem", "features"), [("wrn-28-10", 16, 640), ("revnet-9", 32, 112)])
def test_initialisation_by_fan_out(name: str, stem: int, features: int) -> None:
    state = build(name).state_dict()
    kernel, head = state["stem.weight"], state["head.weight"]
    assert kernel.std().item() == pytest.approx((2 / (3 * 3 * stem)) ** 0.5, rel=0.1), "fan_out, not fan_in"
    assert head.abs().max() <= (3 / features) ** 0.5
    assert head.std().item() == pytest.approx((1 / features) ** 0.5, rel=0.05)
    assert (state["head.bias"] == 0).all()


@pytest.mark.parametrize("name", BATCH_NORM)
def test_batch_norm_starts_as_the_identity_with_tensorflows_constants(name: str) -> None:
    layers = [layer for layer in build(name).modules() if isinstance(layer, nn.BatchNorm2d)]
    eps, momentum, count = BATCH_NORM[name]
    assert len(layers) == count
    for layer in layers:
        assert (layer.eps, layer.momentum) == (eps, momentum)
        assert (layer.weight == 1).all() and (layer.bias == 0).all()
        assert (layer.running_mean == 0).all() and (layer.running_var == 1).all()


def test_a_layer_without_a_rule_is_refused_rather_than_left_undefined() -> None:
    with pytest.raises(TypeError, match="LayerNorm"):
        initialized(lambda: nn.Sequential(nn.LayerNorm(3)), he_normal, torch.Generator())


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match=r"no architecture 'lenett'.* Did you mean 'lenet'"):
        build("lenett")


@settings(deadline=None)
@given(st.one_of(st.integers(max_value=1), st.integers(min_value=100_001), st.floats(), st.booleans(), st.none()))
def test_a_number_of_classes_that_makes_no_classifier_is_refused(classes: object) -> None:
    with pytest.raises(ModelError, match="from 2 to 100000"):
        build("digits-cnn", classes=classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("lenet", (2, 1, 32, 32), r"\(B, 1, 28, 28\)"),
        ("lenet", (2, 3, 28, 28), r"\(B, 1, 28, 28\)"),
        ("digits-cnn", (2, 64), r"\(B, 1, 8, 8\)"),
        ("resnet20-v2", (2, 1, 32, 32), r"\(B, 3, H, W\)"),
        ("wrn-28-10", (3, 32, 32), r"\(B, 3, H, W\)"),
        ("revnet-9", (2, 1, 32, 32), r"\(B, 3, H, W\)"),
        ("resnet50-v2", (2, 1, 64, 64), r"\(B, 3, H, W\)"),
        ("inception-v3", (2, 3, 75, 74), r"\(B, 3, H, W\) with H and W of at least 75"),
    ],
)
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        build(name)(torch.zeros(shape))
