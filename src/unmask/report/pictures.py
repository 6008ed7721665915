"""Images as PNG data URIs: what the model saw, and what changed."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

LARGEST = 256

# Okabe and Ito (2008): vermillion for brighter, blue for darker; they stay apart for colour-blind readers.
_BRIGHTER = np.array([213, 94, 0])
_DARKER = np.array([0, 114, 178])

Pixels = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]


def picture(image: Pixels, low: float = 0.0, high: float = 1.0) -> str:
    """Return an image (C, H, W) with pixels in [low, high] as the data URI of a PNG; see `colours`."""
    return _data_uri(colours(image, low, high))


def perturbation(delta: Pixels) -> str:
    """Return a perturbation (C, H, W) as the data URI of a PNG; see `changes`."""
    return _data_uri(changes(delta))


def colours(image: Pixels, low: float = 0.0, high: float = 1.0) -> Bytes:
    """Return an image (C, H, W) with pixels in [low, high] as bytes (H, W, 3), or (H, W) for grey.

    Three channels are red, green and blue; of any other number the mean is shown in grey.
    """
    with np.errstate(invalid="ignore"):
        scaled = _bytes((image - low) / (high - low))
    return np.moveaxis(scaled, 0, -1) if len(image) == 3 else _bytes((image.mean(0) - low) / (high - low))


def changes(delta: Pixels) -> Bytes:
    """Return a perturbation (C, H, W) as bytes (H, W, 3), in full colour where it is largest.

    Three channels: each around mid-grey. Otherwise the mean over channels: vermillion where brighter, blue where
    darker, white where nothing changed.
    """
    finite = np.nan_to_num(delta)
    shares = finite / (np.abs(finite).max(initial=0.0) or 1.0)
    if len(delta) == 3:
        return np.moveaxis(_bytes(0.5 + 0.5 * shares), 0, -1)
    signed = shares.mean(0)[..., None]
    full = np.where(signed > 0, _BRIGHTER, _DARKER)
    return _bytes((255 + np.abs(signed) * (full - 255)) / 255)


def _bytes(shares: Pixels) -> Bytes:
    return np.rint(np.clip(np.nan_to_num(shares), 0, 1) * 255).astype(np.uint8)


def _data_uri(pixels: Bytes) -> str:
    found = Image.fromarray(pixels)
    found.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    stream = io.BytesIO()
    found.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
