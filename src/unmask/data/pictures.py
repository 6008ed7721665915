"""Image files decoded to RGB, with errors that name the file."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.errors import DataError

# What Pillow raises for files that are no images, cut short, damaged, or far too large.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_rgb(source: Path | BytesIO, shown: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Return an image file as 8-bit RGB, grey repeated; `DataError` names it as `shown`; `formats` limits decoders."""
    try:
        with Image.open(source, formats=formats) as image:
            # Pillow would cut these values off at 255 without a word.
            if image.mode[0] in "IF":
                raise DataError(f"{shown} has more than 8 bits per channel (mode {image.mode}). Convert it to 8 bits.")
            return image.convert("RGB")
    except _UNREADABLE as problem:
        raise DataError(f"{shown} cannot be decoded as an image ({problem}). Replace or remove it.") from problem


def as_tensor(picture: Image.Image) -> Tensor:
    """Return an RGB picture as a uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
