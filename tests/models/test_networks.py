"""Forward passes compared with straight-line formulas over the same weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import inception_v3, resnet101

from unmask.models import build
from unmask.models.convolution import SameConv2d, same_padding
from unmask.models.resnet import ResNet20V2
from unmask.models.resnet50_v2 import ResNet50V2
from unmask.models.revnet import RevNet
from unmask.models.wide_resnet import WideResNet


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value that its absence from a formula would betray."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.is_floating_point():
            draw = torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5
            value.data = draw + 1 if "norm" in name and "bias" not in name else draw * 0.6
    return network.double().eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def same_convolution_by_loops(x: NDArray[np.float64], kernel: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Return TensorFlow's documented 'SAME' convolution of one channel, written out."""
    size, width = x.shape[0], kernel.shape[0]
    outputs = int(np.ceil(size / stride))
    before = max((outputs - 1) * stride + width - size, 0) // 2
    out = np.zeros((outputs, outputs))
    for i in range(outputs):
        for j in range(outputs):
            for a in range(width):
                for b in range(width):
                    row, column = i * stride + a - before, j * stride + b - before
                    if 0 <= row < size and 0 <= column < size:
                        out[i, j] += x[row, column] * kernel[a, b]
    return out


@pytest.mark.parametrize(("size", "kernel", "stride"), [(6, 3, 1), (6, 3, 2), (7, 3, 2), (6, 1, 2), (5, 5, 1)])
def test_same_convolution_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    layer = randomized(SameConv2d(1, 1, kernel, stride=stride, bias=False))
    x = images(1, 1, size, size)
    expected = same_convolution_by_loops(x[0, 0].numpy(), next(layer.parameters()).detach()[0, 0].numpy(), stride)
    np.testing.assert_allclose(layer(x)[0, 0].detach().numpy(), expected, atol=1e-12)


def test_stride_2_pads_at_the_end_alone() -> None:
    layer = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    assert layer(torch.ones(1, 1, 4, 4)).tolist() == [[[[9.0, 6.0], [6.0, 4.0]]]]


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 7), st.integers(1, 3))
def test_same_padding_gives_one_output_per_stride(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert 0 <= before <= after <= before + 1


@pytest.mark.parametrize(("name", "padding"), [("lenet", 1), ("lenet-half", 1), ("lenet-madry", 2)])
def test_lenet_is_conv_pool_conv_pool_dense_dense(name: str, padding: int) -> None:
    network = randomized(build(name))
    w, x = network.state_dict(), images(3, 1, 28, 28)
    expected = F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=padding).relu(), 2)
    expected = F.max_pool2d(F.conv2d(expected, w["conv2.weight"], w["conv2.bias"], padding=padding).relu(), 2)
    expected = (expected.reshape(3, -1) @ w["dense.weight"].T + w["dense.bias"]).relu()
    expected = expected @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(network(x), expected)


def test_digits_network_is_conv_conv_pool_dense_dense() -> None:
    network = randomized(build("digits-cnn"))
    w, x = network.state_dict(), images(3, 1, 8, 8)
    expected = F.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=1).relu()
    expected = F.max_pool2d(F.conv2d(expected, w["conv2.weight"], w["conv2.bias"], padding=1).relu(), 2)
    expected = (expected.reshape(3, -1) @ w["dense.weight"].T + w["dense.bias"]).relu()
    torch.testing.assert_close(network(x), expected @ w["head.weight"].T + w["head.bias"])


def batch_norm(x: Tensor, w: dict[str, Tensor], name: str, eps: float = 1e-3) -> Tensor:
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    scaled = (x - mean[:, None, None]) / (variance + eps).sqrt()[:, None, None]
    return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def strided(x: Tensor, kernel: Tensor) -> Tensor:
    """Return a 3x3 'SAME' convolution at stride 2 on an even size."""
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel, stride=2)


def test_resnet_adds_to_the_raw_input_and_ends_without_batch_norm() -> None:
    network = randomized(ResNet20V2(10, width=4))
    w = network.state_dict()
    x = images(2, 3, 8, 8)
    h = F.conv2d(x, w["stem.weight"], padding=1)
    for stage in range(3):
        for block in range(3):
            at = f"stages.{stage}.{block}"
            down = stage > 0 and block == 0
            inner = batch_norm(h, w, f"{at}.norm1").relu()
            kernel = w[f"{at}.conv1.weight"]
            inner = strided(inner, kernel) if down else F.conv2d(inner, kernel, padding=1)
            inner = F.conv2d(batch_norm(inner, w, f"{at}.norm2").relu(), w[f"{at}.conv2.weight"], padding=1)
            if block == 0:
                # A 1x1 kernel at stride 2 sees every other pixel.
                seen = h[:, :, ::2, ::2] if down else h
                h = torch.einsum("bihw,oi->bohw", seen, w[f"{at}.shortcut.weight"][:, :, 0, 0])
            h = h + inner
    expected = h.relu().mean((2, 3)) @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(network(x), expected)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.1 * x, x)


def pooled(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_wide_resnet_has_madrys_shortcuts() -> None:
    network = randomized(WideResNet(10, units=2, widening=2))
    w, x = network.state_dict(), images(2, 3, 8, 8)
    h = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), correction=0, keepdim=True)
    h = F.conv2d(h, w["stem.weight"], padding=1)
    for stage in range(3):
        for block in range(2):
            at = f"stages.{stage}.{block}"
            down = stage > 0 and block == 0
            inner = leaky(batch_norm(h, w, f"{at}.norm1"))
            raw = inner if (stage, block) == (0, 0) else h
            kernel = w[f"{at}.conv1.weight"]
            inner = strided(inner, kernel) if down else F.conv2d(inner, kernel, padding=1)
            inner = F.conv2d(leaky(batch_norm(inner, w, f"{at}.norm2")), w[f"{at}.conv2.weight"], padding=1)
            if down:
                raw = pooled(raw)
            h = inner.clone()
            missing = (inner.shape[1] - raw.shape[1]) // 2
            h[:, missing : missing + raw.shape[1]] += raw
    h = leaky(batch_norm(h, w, "norm")).mean((2, 3))
    torch.testing.assert_close(network(x), h @ w["head.weight"].T + w["head.bias"])


def test_revnet_couples_two_halves() -> None:
    network = randomized(RevNet(10, widths=(8, 8, 16), units=(2, 2), strides=(1, 2)))
    w, x = network.state_dict(), images(2, 3, 8, 8)

    def residual(x: Tensor, at: str, *, down: bool = False, activated: bool = False) -> Tensor:
        inner = x if activated else batch_norm(x, w, f"{at}.norm1").relu()
        kernel = w[f"{at}.conv1.weight"]
        inner = strided(inner, kernel) if down else F.conv2d(inner, kernel, padding=1)
        return F.conv2d(batch_norm(inner, w, f"{at}.norm2").relu(), w[f"{at}.conv2.weight"], padding=1)

    h = batch_norm(F.conv2d(x, w["stem.weight"], padding=1), w, "stem_norm").relu()
    for stage in range(2):
        for unit in range(2):
            at, down = f"stages.{stage}.units.{unit}", (stage, unit) == (1, 0)
            x1, x2 = h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]
            s1, s2 = (F.pad(pooled(x), (0, 0, 0, 0, 2, 2)) if down else x for x in (x1, x2))
            y1 = s1 + residual(x2, f"{at}.f", down=down, activated=(stage, unit) == (0, 0))
            h = torch.cat([y1, s2 + residual(y1, f"{at}.g")], dim=1)
    h = batch_norm(h, w, "norm").relu().mean((2, 3))
    torch.testing.assert_close(network(x), h @ w["head.weight"].T + w["head.bias"])


def test_resnet50_v2_is_tf_slims() -> None:
    network = randomized(ResNet50V2(10, width=4))
    w, x = network.state_dict(), images(2, 3, 64, 64)
    h = F.conv2d(x * 2 - 1, w["stem.weight"], w["stem.bias"], stride=2, padding=3)
    # Without a zero in sight: the maximum of what is there, over three pixels from every second one on.
    h = F.pad(h, (0, 1, 0, 1), value=-1e9).unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    for stage, units in enumerate([3, 4, 6, 3]):
        for unit in range(units):
            at = f"stages.{stage}.{unit}"
            stride = 2 if unit == units - 1 and stage < 3 else 1
            active = batch_norm(h, w, f"{at}.norm1", 1e-5).relu()
            inner = F.conv2d(active, w[f"{at}.conv1.weight"])
            # TF-slim: the convolution at stride 1, of which every stride-th output is taken.
            inner = F.conv2d(batch_norm(inner, w, f"{at}.norm2", 1e-5).relu(), w[f"{at}.conv2.weight"], padding=1)
            inner = batch_norm(inner[..., ::stride, ::stride], w, f"{at}.norm3", 1e-5).relu()
            inner = F.conv2d(inner, w[f"{at}.conv3.weight"], w[f"{at}.conv3.bias"])
            raw = F.conv2d(active, w[f"{at}.shortcut.weight"], w[f"{at}.shortcut.bias"]) if unit == 0 else h
            h = inner + raw[..., ::stride, ::stride]
    h = batch_norm(h, w, "norm", 1e-5).relu().mean((2, 3))
    assert network.stages(torch.zeros(1, 4, 16, 16).double()).shape[2:] == (2, 2)
    torch.testing.assert_close(network(x), h @ w["head.weight"].T + w["head.bias"])


@pytest.mark.parametrize(("name", "size"), [("resnet101", 64), ("inception-v3", 75)])
def test_imagenet_networks_are_torchvisions(name: str, size: int) -> None:
    network = build(name).eval()
    with torch.device("meta"):
        theirs = (
            resnet101(num_classes=10)
            if name == "resnet101"
            else inception_v3(num_classes=10, aux_logits=False, init_weights=False)
        )
    state = {key.removeprefix("body.").replace("head.", "fc."): value for key, value in network.state_dict().items()}
    theirs.load_state_dict(state, assign=True)
    x = images(2, 3, size, size).float()
    with torch.no_grad():
        torch.testing.assert_close(network(x), theirs.eval()(x * 2 - 1))


def test_the_narrow_inception_is_the_wide_one_with_an_eighth_of_every_width() -> None:
    wide = build("inception-v3").state_dict()
    narrow = {key.removeprefix("1."): value for key, value in build("inception-v3-narrow").state_dict().items()}
    assert set(narrow) == set(wide)

    def eighth(key: str, shape: torch.Size) -> tuple[int, ...]:
        if key == "head.weight":
            return shape[0], shape[1] // 8
        if len(shape) == 4:
            return shape[0] // 8, shape[1] if shape[1] == 3 else shape[1] // 8, *shape[2:]
        return tuple(shape) if key == "head.bias" else tuple(size // 8 for size in shape)

    assert {key: tuple(value.shape) for key, value in narrow.items()} == {
        key: eighth(key, value.shape) for key, value in wide.items()
    }


def test_the_narrow_inception_enlarges_images_that_are_too_small_for_it() -> None:
    network = build("inception-v3-narrow").eval()
    small = images(2, 3, 64, 80).float()
    enlarged = F.interpolate(small, (75, 80), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(network(small), network[1](enlarged))
        torch.testing.assert_close(network(enlarged), network[1](enlarged))


def test_wrn_28_10_is_28_layers_deep_and_10_times_as_wide() -> None:
    state = build("wrn-28-10").state_dict()
    layers = [key for key, value in state.items() if key.endswith("weight") and value.ndim > 1]
    # The name counts a stem, 6 x 4 convolutions and three projections, which this network does without, but no head.
    assert len(layers) == 1 + 6 * 4 + 1
    assert [state[f"stages.{stage}.0.conv2.weight"].shape[0] for stage in range(3)] == [160, 320, 640]


def test_evaluation_does_not_depend_on_the_rest_of_the_batch() -> None:
    network = randomized(ResNet20V2(10, width=4))
    x = images(3, 3, 8, 8)
    torch.testing.assert_close(network(x)[:1], network(x[:1]))


def test_training_moves_running_statistics_by_the_share_that_tensorflow_replaces() -> None:
    network = ResNet20V2(10, width=4).double().train()
    x = images(4, 3, 8, 8)
    network(x)
    features = F.conv2d(x, network.state_dict()["stem.weight"], padding=1)
    norm = network.get_submodule("stages.0.0.norm1")
    torch.testing.assert_close(norm.running_mean, 0.001 * features.mean((0, 2, 3)))
