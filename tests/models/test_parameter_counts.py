"""Every network has exactly the parameters that its paper's layers add up to."""

import pytest

from unmask.models import ARCHITECTURES, build


def pre_activation_block(channels_in: int, channels_out: int, *, projection: bool) -> int:
    norms = 2 * channels_in + 2 * channels_out
    kernels = 3 * 3 * channels_in * channels_out + 3 * 3 * channels_out * channels_out
    return norms + kernels + projection * channels_in * channels_out


COUNTS = {
    "lenet": [
        (1 * 3 * 3 * 32 + 32),  # 320
        (32 * 3 * 3 * 64 + 64),  # 18,496
        (7 * 7 * 64 * 1024 + 1024),  # 3,212,288
        (1024 * 10 + 10),  # 10,250
    ],
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
}

TOTALS = {
    "lenet": 3_241_354,
    "lenet-half": 409_034,
    "lenet-madry": 3_274_634,
    "digits-cnn": 151_306,
    "resnet20-v2": 4_330_570,
    "wrn-28-10": 36_220_634,
}


def test_every_architecture_is_counted() -> None:
    assert set(COUNTS) == set(TOTALS) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters(name: str) -> None:
    parameters = sum(parameter.numel() for parameter in build(name).parameters())
    assert parameters == sum(COUNTS[name]) == TOTALS[name]
