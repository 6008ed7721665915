"""Models of timm, transformers, torchvision and torch.hub answer behind an adapter as in their own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms._presets import ImageClassification
from transformers import (
    EfficientNetImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from unmask.attacks import pgd
from unmask.errors import ModelError
from unmask.losses import predictions
from unmask.models import Normalize, from_timm, from_transformers
from unmask.threat import Linf

BYTES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = BYTES / 255


def gradients_reach(model: nn.Module) -> bool:
    y = predictions(model(IMAGES))
    x_adv = pgd(model, IMAGES, y, threat=Linf(0.1), steps=2, start=lambda problem: (problem.x, 0, 0)).x_adv
    return bool((x_adv != IMAGES).flatten(1).any(1).all())


class TestTimm:
    @pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
    def test_the_answer_is_that_behind_timms_own_transform(self, name: str) -> None:
        net = timm.create_model(name, pretrained=False, num_classes=5, **({"img_size": 32} if "vit" in name else {}))
        *_, normalise = create_transform(**resolve_model_data_config(net), is_training=False).transforms
        model = from_timm(net.eval())
        torch.testing.assert_close(model(IMAGES), net(normalise(IMAGES)))
        assert not torch.allclose(model(IMAGES), net(IMAGES))
        assert gradients_reach(model)

    def test_what_is_no_classifier_of_timm_is_refused(self) -> None:
        with pytest.raises(ModelError, match="Linear whose pretrained_cfg names no mean and std"):
            from_timm(nn.Linear(2, 2))
        with pytest.raises(ModelError, match="without classifier"):
            from_timm(timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0))


def vit(kind: Callable[[ViTConfig], Any] = ViTForImageClassification) -> Any:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    return kind(config).eval()


class TestTransformers:
    @pytest.mark.parametrize(
        "processor",
        [
            ViTImageProcessor(do_resize=False),
            ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1]),
            ViTImageProcessor(do_normalize=False),
            EfficientNetImageProcessor(rescale_offset=True, rescale_factor=1 / 127.5),
            EfficientNetImageProcessor(include_top=False),
        ],
    )
    def test_the_answer_is_that_behind_the_processor(self, processor: Any) -> None:
        net = vit()
        model = from_transformers(net, processor)
        pixels = processor(list(BYTES), return_tensors="pt", do_resize=False, do_center_crop=False)
        torch.testing.assert_close(model(IMAGES), net(**pixels).logits, rtol=1e-4, atol=1e-5)
        assert gradients_reach(model)

    @pytest.mark.parametrize(
        ("processor", "message"),
        [
            (lambda images, **_: {"pixel_values": torch.zeros(1, 3, 4, 4)}, r"of black, .* of white, which no mean"),
            (lambda images, **_: {"pixel_values": torch.tensor(images[None] / 255.0).mT.mT ** 2}, "which no mean"),
            (lambda images, **_: {"pixel_values": torch.zeros(3)}, r"made shape \(3,\) of one image"),
            (lambda **_: SimpleNamespace(), "raised TypeError on an image"),
        ],
    )
    def test_what_no_layer_can_do_is_refused(self, processor: Any, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            from_transformers(vit(), processor)

    def test_a_model_without_logits_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"ViTModel answered with a .* without logits"):
            from_transformers(vit(ViTModel), ViTImageProcessor())(IMAGES)


def test_torchvisions_presets_give_mean_and_std() -> None:
    preset = ImageClassification(crop_size=32, resize_size=32)
    net = resnet18(num_classes=5).eval()
    model = nn.Sequential(Normalize(preset.mean, preset.std), net)
    torch.testing.assert_close(model(IMAGES), net(preset(BYTES)))


def test_a_model_of_torch_hub_takes_the_layer_in_front(tmp_path: Path) -> None:
    (tmp_path / "hubconf.py").write_text(
        "import torch\n\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 5))\n"
    )
    net = torch.hub.load(str(tmp_path), "net", source="local")
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    own: Tensor = (IMAGES - torch.tensor(mean).view(-1, 1, 1).float()) / torch.tensor(std).view(-1, 1, 1).float()
    torch.testing.assert_close(nn.Sequential(Normalize(mean, std), net)(IMAGES), net(own))
