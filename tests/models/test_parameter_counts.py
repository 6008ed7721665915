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


def bottleneck_stage(channels_in: int, inner: int, channels_out: int, units: int) -> int:
    """Count ResNet-101's form: batch norm after every convolution, the projection's too, and no bias."""
    first = normed(channels_in, inner) + normed(inner, inner, 9) + normed(inner, channels_out)
    later = normed(channels_out, inner) + normed(inner, inner, 9) + normed(inner, channels_out)
    return first + normed(channels_in, channels_out) + (units - 1) * later


def normed(channels_in: int, channels_out: int, kernel: int = 1, *, by: int = 1) -> int:
    """Count a convolution of `kernel` pixels without bias, and its batch norm, of widths divided by `by`."""
    return channels_in // by * (channels_out // by) * kernel + 2 * channels_out // by


def inception_a(channels: int, pooled: int, by: int = 1) -> int:
    fives = normed(channels, 48, by=by) + normed(48, 64, 25, by=by)
    threes = normed(channels, 64, by=by) + normed(64, 96, 9, by=by) + normed(96, 96, 9, by=by)
    return normed(channels, 64, by=by) + fives + threes + normed(channels, pooled, by=by)


def inception_b(channels: int, by: int = 1) -> int:
    return (
        normed(channels, 384, 9, by=by)
        + normed(channels, 64, by=by)
        + normed(64, 96, 9, by=by)
        + normed(96, 96, 9, by=by)
    )


def inception_c(channels: int, inner: int, by: int = 1) -> int:
    short = normed(channels, inner, by=by) + normed(inner, inner, 7, by=by) + normed(inner, 192, 7, by=by)
    long = normed(channels, inner, by=by) + 3 * normed(inner, inner, 7, by=by) + normed(inner, 192, 7, by=by)
    return normed(channels, 192, by=by) + short + long + normed(channels, 192, by=by)


def inception_d(channels: int, by: int = 1) -> int:
    threes = normed(channels, 192, by=by) + normed(192, 320, 9, by=by)
    return threes + normed(channels, 192, by=by) + 2 * normed(192, 192, 7, by=by) + normed(192, 192, 9, by=by)


def inception_e(channels: int, by: int = 1) -> int:
    threes = normed(channels, 384, by=by) + 2 * normed(384, 384, 3, by=by)
    double = normed(channels, 448, by=by) + normed(448, 384, 9, by=by) + 2 * normed(384, 384, 3, by=by)
    return normed(channels, 320, by=by) + threes + double + normed(channels, 192, by=by)


def inception(by: int = 1) -> list[int]:
    stem = [normed(3 * by, 32, 9, by=by), normed(32, 32, 9, by=by), normed(32, 64, 9, by=by)]
    return [
        *stem,
        normed(64, 80, by=by) + normed(80, 192, 9, by=by),
        inception_a(192, 32, by) + inception_a(256, 64, by) + inception_a(288, 64, by),
        inception_b(288, by),
        inception_c(768, 128, by) + 2 * inception_c(768, 160, by) + inception_c(768, 192, by),
        inception_d(768, by),
        inception_e(1280, by) + inception_e(2048, by),
        2048 // by * 10 + 10,
    ]


def resnet20_v2(width: int) -> list[int]:
    widths = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
    return [
        3 * 3 * 3 * width,  # stem, no bias
        *[pre_activation_block(before, after, projection=True) for before, after in widths],
        *[2 * pre_activation_block(after, after, projection=False) for _, after in widths],
        4 * width * 10 + 10,
    ]


def resnet50_v2(width: int) -> list[int]:
    stages = [(width, width, 3), (4 * width, 2 * width, 4), (8 * width, 4 * width, 6), (16 * width, 8 * width, 3)]
    return [
        7 * 7 * 3 * width + width,  # stem with bias
        *[pre_activation_bottleneck(before, inner, projection=True) for before, inner, _ in stages],
        *[(n - 1) * pre_activation_bottleneck(4 * inner, inner, projection=False) for _, inner, n in stages],
        2 * 32 * width,
        32 * width * 10 + 10,
    ]


def revnet_9(first: int, second: int, third: int) -> list[int]:
    return [
        3 * 3 * 3 * first + 2 * first,  # stem with batch norm, no bias
        reversible_unit(first, second, activated=True),
        reversible_unit(second, third),
        2 * third,  # last batch norm
        third * 10 + 10,
    ]


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
    "resnet20-v2": resnet20_v2(64),
    "resnet20-v2-narrow": resnet20_v2(16),
    "wrn-28-10": [
        3 * 3 * 3 * 16,  # stem, no bias
        pre_activation_block(16, 160, projection=False) + 3 * pre_activation_block(160, 160, projection=False),
        pre_activation_block(160, 320, projection=False) + 3 * pre_activation_block(320, 320, projection=False),
        pre_activation_block(320, 640, projection=False) + 3 * pre_activation_block(640, 640, projection=False),
        2 * 640,  # last batch norm
        640 * 10 + 10,
    ],
    "wrn-10-1": [
        3 * 3 * 3 * 16,
        pre_activation_block(16, 16, projection=False),
        pre_activation_block(16, 32, projection=False),
        pre_activation_block(32, 64, projection=False),
        2 * 64,
        64 * 10 + 10,
    ],
    "revnet-9": revnet_9(32, 64, 112),
    "revnet-9-narrow": revnet_9(16, 32, 56),
    "revnet-38": [
        3 * 3 * 3 * 32 + 2 * 32,
        reversible_unit(32, 32, activated=True) + 2 * reversible_unit(32, 32),
        reversible_unit(32, 64) + 2 * reversible_unit(64, 64),
        reversible_unit(64, 112) + 2 * reversible_unit(112, 112),
        2 * 112,
        112 * 10 + 10,
    ],
    "resnet50-v2": resnet50_v2(64),
    "resnet50-v2-narrow": resnet50_v2(16),
    "resnet101": [
        normed(3, 64, 49),
        bottleneck_stage(64, 64, 256, 3),
        bottleneck_stage(256, 128, 512, 4),
        bottleneck_stage(512, 256, 1024, 23),
        bottleneck_stage(1024, 512, 2048, 3),
        2048 * 10 + 10,
    ],
    "resnet101-narrow": [
        normed(3, 64, 49),
        bottleneck_stage(64, 8, 256, 1),
        bottleneck_stage(256, 16, 512, 1),
        bottleneck_stage(512, 32, 1024, 1),
        bottleneck_stage(1024, 64, 2048, 1),
        2048 * 10 + 10,
    ],
    "inception-v3": inception(),
    "inception-v3-narrow": inception(by=8),
}

TOTALS = {
    "lenet": 3_241_354,
    "lenet-half": 409_034,
    "lenet-madry": 3_274_634,
    "strided-cnn": 166_406,
    "strided-cnn-wide": 839_018,
    "digits-cnn": 151_306,
    "resnet20-v2": 4_330_570,
    "resnet20-v2-narrow": 272_410,
    "wrn-28-10": 36_220_634,
    "wrn-10-1": 75_290,
    "revnet-9": 135_930,
    "revnet-9-narrow": 34_706,
    "revnet-38": 464_890,  # .46 million in the paper's table
    "resnet50-v2": 23_539_850,
    "resnet50-v2-narrow": 1_488_938,
    "resnet101": 42_520_650,
    "resnet101-narrow": 3_124_330,
    "inception-v3": 21_806_058,
    "inception-v3-narrow": 346_830,
}


def test_every_architecture_is_counted() -> None:
    assert set(COUNTS) == set(TOTALS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build(name).parameters())
    assert parameters == sum(COUNTS[name]) == TOTALS[name]
