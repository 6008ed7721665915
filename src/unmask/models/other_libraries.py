"""Classifiers of timm and Hugging Face transformers, with the preprocessing of pixels that they were trained with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unmask.errors import ModelError
from unmask.models.normalize import Normalize

# Levels of grey that a processor is shown; the last one says whether it is affine between the others.
BLACK, WHITE, BETWEEN = 0, 255, 51
SIZE = 64


def from_timm(model: nn.Module) -> nn.Module:
    """Return a model of `timm.create_model` with its normalisation inside: images (B, C, H, W) in [0, 1] -> logits.

    Mean and standard deviation are those of its `pretrained_cfg`. Images must come in the size that the network takes:
    resize and crop them before the audit, for the ball is around what the network sees. Raises ModelError for a module
    without that configuration, and for one without a classifier (`num_classes=0`).

        result = unmask.audit(from_timm(timm.create_model("resnet18", pretrained=True)), x, y, unmask.Linf("4/255"))
    """
    found = getattr(model, "pretrained_cfg", None) or {}
    mean, std = found.get("mean"), found.get("std")
    if mean is None or std is None:
        raise ModelError(
            f"from_timm got a {type(model).__name__} whose pretrained_cfg names no mean and std; expected a model of "
            "timm.create_model. For another, put the layer in front: "
            "torch.nn.Sequential(unmask.models.Normalize(mean, std), model)."
        )
    if getattr(model, "num_classes", None) == 0:
        raise ModelError("from_timm got a model without classifier (num_classes=0); create it with its classes.")
    return nn.Sequential(Normalize(mean, std), model)


class _Logits(nn.Module):
    """Returns the field `logits` of what a model of transformers answers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answer = self.model(pixel_values=x)
        logits = getattr(answer, "logits", None)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"The model {type(self.model).__name__} answered with a {type(answer).__name__} without logits; "
                "expected an image classifier, as AutoModelForImageClassification loads it."
            )
        return logits


def from_transformers(model: nn.Module, processor: Callable[..., Any]) -> nn.Module:
    """Return an image classifier of transformers that takes images (B, C, H, W) in [0, 1] and returns logits.

    `processor` is its image processor (`AutoImageProcessor.from_pretrained`). What it makes of pixels is not read off
    its settings, whose meaning differs among processors: it is shown black and white, and the `Normalize` that does the
    same is put first. Resizing and cropping are left out: give images in the size that the network takes, for
    the ball is around what the network sees. Raises ModelError for a processor that does more to a pixel than shift
    and scale it, and for models that answer without logits.

        net = AutoModelForImageClassification.from_pretrained(name)
        model = unmask.models.from_transformers(net, AutoImageProcessor.from_pretrained(name))
    """
    black, white, between = (_shown(processor, level) for level in (BLACK, WHITE, BETWEEN))
    slope = white - black
    if (slope <= 0).any() or not torch.allclose(between, black + BETWEEN / WHITE * slope, atol=1e-4):
        raise ModelError(
            f"The processor {type(processor).__name__} makes {_listed(black)} of black, {_listed(between)} of the grey "
            f"{BETWEEN} and {_listed(white)} of white, which no mean and standard deviation do. Write what it does to "
            "pixels as a layer in front of the model."
        )
    return nn.Sequential(Normalize((-black / slope).tolist(), (1 / slope).tolist()), _Logits(model))


def _shown(processor: Callable[..., Any], level: int) -> Tensor:
    """Return what a processor makes of a pixel (C,) amid an image of one level of grey."""
    # Resizing and cropping leave an image of one colour as it is, and padding leaves its centre.
    image = np.full((SIZE, SIZE, 3), level, np.uint8)
    try:
        values = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"])
    except Exception as error:  # a user's processor may raise anything
        raise ModelError(
            f"The processor {type(processor).__name__} raised {type(error).__name__} on an image: {error}. Give the "
            "model's image processor, as AutoImageProcessor loads it."
        ) from error
    if values.ndim != 4:
        raise ModelError(
            f"The processor {type(processor).__name__} made shape {tuple(values.shape)} of one image; expected "
            "(1, C, H, W)."
        )
    return values[0, :, values.shape[2] // 2, values.shape[3] // 2].double()


def _listed(values: Tensor) -> Sequence[float]:
    return [round(value, 4) for value in values.tolist()]
