"""Every network has exactly the parameters that its paper's layers add up to."""

import pytest

from unmask.models import ARCHITECTURES, build


def pre_activation_block(channels_in: int, channels_out: int, *, projection: bool) -> int:
    norms = 2 * channels_in + 2 * channels_out
    kernels = 3 * 3 * channels_in * channels_out + 3 * 3 * channels_out * channels_out
    return norms + kernels + projection * channels_in * channels_out


def reversible_unit(channels_in: int, channels_out: int, *, activated: bool = False) -> int:
    """Count f and g on half the channels; an activated input needs no first batch norm."""
    before, after = channels_in // 2, channels_out // 2
    f = pre_activation_block(before, after, projection=False) - activated * 2 * before
    return f + pre_activation_block(after, after, projection=False)


def pre_activation_bottleneck(channels_in: int, inner: int, *, projection: bool) -> int:
    norms = 2 * channels_in + 2 * inner + 2 * inner
    kernels = channels_in * inner + 3 * 3 * inner * inner + inner * 4 * inner + 4 * inner
    return norms + kernels + projection * (channels_in * 4 * inner + 4 * inner)


def bottleneck_stage(channels_in: int, inner: int, units: int) -> int:
    """Count ResNet-101's form: batch norm after every convolution, the projection's too, and no bias."""
    first = normed(channels_in, inner) + normed(inner, inner, 9) + normed(inner, 4 * inner)
    later = normed(4 * inner, inner) + normed(inner, inner, 9) + normed(inner, 4 * inner)
    return first + normed(channels_in, 4 * inner) + (units - 1) * later


def normed(channels_in: int, channels_out: int, kernel: int = 1) -> int:
    """Count a convolution of `kernel` pixels without bias, and its batch norm."""
    return channels_in * channels_out * kernel + 2 * channels_out


def inception_a(channels: int, pooled: int) -> int:
    fives = normed(channels, 48) + normed(48, 64, 25)
    threes = normed(channels, 64) + normed(64, 96, 9) + normed(96, 96, 9)
    return normed(channels, 64) + fives + threes + normed(channels, pooled)


def inception_b(channels: int) -> int:
    return normed(channels, 384, 9) + normed(channels, 64) + normed(64, 96, 9) + normed(96, 96, 9)


def inception_c(channels: int, inner: int) -> int:
    short = normed(channels, inner) + normed(inner, inner, 7) + normed(inner, 192, 7)
    long = normed(channels, inner) + 3 * normed(inner, inner, 7) + normed(inner, 192, 7)
    return normed(channels, 192) + short + long + normed(channels, 192)


def inception_d(channels: int) -> int:
    threes = normed(channels, 192) + normed(192, 320, 9)
    return threes + normed(channels, 192) + 2 * normed(192, 192, 7) + normed(192, 192, 9)


def inception_e(channels: int) -> int:
    threes = normed(channels, 384) + 2 * normed(384, 384, 3)
    double = normed(channels, 448) + normed(448, 384, 9) + 2 * normed(384, 384, 3)
    return normed(channels, 320) + threes + double + normed(channels, 192)


COUNTS = {
    "lenet": [
        (1 * 3 * 3 * 32 + 32),  # 320
        (32 * 3 * 3 * 64 + 64),  # 18,496
        (7 * 7 * 64 * 1024 + 1024),  # 3,212,288
        (1024 * 10 + 10),  # 10,250
    ],
    "strided-cnn": [1 * 16 * 16 + 16, 16 * 32 * 16 + 32, 7 * 7 * 32 * 100 + 100, 100 * 10 + 10],
    "strided-cnn-wide": [1 * 32 * 16 + 32, 32 * 64 * 16 + 64, 7 * 7 * 64 * 256 + 256, 256 * 10 + 10],
    "lenet-half": [
        (1 * 3 * 3 * 16 + 16),
        (16 * 3 * 3 * 32 + 32),
        (7 * 7 * 32 * 256 + 256),
        (256 * 10 + 10),
    ],
    "lenet-madry": [
        (1 * 5 * 5 * 32 + 32),  # 832
        (32 * 5 * 5 * 64 + 64),  # 51,264
        (7 * 7 * 64 * 1024 + 1024),
        (1024 * 10 + 10),
    ],
    "digits-cnn": [
        (1 * 3 * 3 * 32 + 32),
        (32 * 3 * 3 * 64 + 64),
        (4 * 4 * 64 * 128 + 128),
        (128 * 10 + 10),
    ],
    "resnet20-v2": [
        3 * 3 * 3 * 64,  # stem, no bias
        pre_activation_block(64, 64, projection=True) + 2 * pre_activation_block(64, 64, projection=False),
        pre_activation_block(64, 128, projection=True) + 2 * pre_activation_block(128, 128, projection=False),
        pre_activation_block(128, 256, projection=True) + 2 * pre_activation_block(256, 256, projection=False),
        256 * 10 + 10,
    ],
    "wrn-28-10": [
        3 * 3 * 3 * 16,  # stem, no bias
        pre_activation_block(16, 160, projection=False) + 3 * pre_activation_block(160, 160, projection=False),
        pre_activation_block(160, 320, projection=False) + 3 * pre_activation_block(320, 320, projection=False),
        pre_activation_block(320, 640, projection=False) + 3 * pre_activation_block(640, 640, projection=False),
        2 * 640,  # last batch norm
        640 * 10 + 10,
    ],
    "revnet-9": [
        3 * 3 * 3 * 32 + 2 * 32,  # stem with batch norm, no bias
        reversible_unit(32, 64, activated=True),
        reversible_unit(64, 112),
        2 * 112,  # last batch norm
        112 * 10 + 10,
    ],
    "revnet-38": [
        3 * 3 * 3 * 32 + 2 * 32,
        reversible_unit(32, 32, activated=True) + 2 * reversible_unit(32, 32),
        reversible_unit(32, 64) + 2 * reversible_unit(64, 64),
        reversible_unit(64, 112) + 2 * reversible_unit(112, 112),
        2 * 112,
        112 * 10 + 10,
    ],
    "resnet50-v2": [
        7 * 7 * 3 * 64 + 64,  # stem with bias
        pre_activation_bottleneck(64, 64, projection=True) + 2 * pre_activation_bottleneck(256, 64, projection=False),
        pre_activation_bottleneck(256, 128, projection=True)
        + 3 * pre_activation_bottleneck(512, 128, projection=False),
        pre_activation_bottleneck(512, 256, projection=True)
        + 5 * pre_activation_bottleneck(1024, 256, projection=False),
        pre_activation_bottleneck(1024, 512, projection=True)
        + 2 * pre_activation_bottleneck(2048, 512, projection=False),
        2 * 2048,
        2048 * 10 + 10,
    ],
    "resnet101": [
        normed(3, 64, 49),
        bottleneck_stage(64, 64, 3),
        bottleneck_stage(256, 128, 4),
        bottleneck_stage(512, 256, 23),
        bottleneck_stage(1024, 512, 3),
        2048 * 10 + 10,
    ],
    "inception-v3": [
        normed(3, 32, 9) + normed(32, 32, 9) + normed(32, 64, 9) + normed(64, 80) + normed(80, 192, 9),
        inception_a(192, 32) + inception_a(256, 64) + inception_a(288, 64),
        inception_b(288),
        inception_c(768, 128) + 2 * inception_c(768, 160) + inception_c(768, 192),
        inception_d(768),
        inception_e(1280) + inception_e(2048),
        2048 * 10 + 10,
    ],
}

TOTALS = {
    "lenet": 3_241_354,
    "lenet-half": 409_034,
    "lenet-madry": 3_274_634,
    "strided-cnn": 166_406,
    "strided-cnn-wide": 839_018,
    "digits-cnn": 151_306,
    "resnet20-v2": 4_330_570,
    "wrn-28-10": 36_220_634,
    "revnet-9": 135_930,
    "revnet-38": 464_890,  # .46 million in the paper's table
    "resnet50-v2": 23_539_850,
    "resnet101": 42_520_650,
    "inception-v3": 21_806_058,
}


def test_every_architecture_is_counted() -> None:
    assert set(COUNTS) == set(TOTALS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build(name).parameters())
    assert parameters == sum(COUNTS[name]) == TOTALS[name]
