"""The check that images have the shape a network was built for."""

from torch import Tensor

from unmask.errors import ModelError


def check_image_shape(x: Tensor, channels: int, size: int | None = None) -> None:
    """Check that `x` is a batch of images `(B, channels, size, size)`; `size=None` leaves height and width free.

    Raises ModelError with the shape that came and the one expected.
    """
    if x.ndim == 4 and x.shape[1] == channels and (size is None or tuple(x.shape[2:]) == (size, size)):
        return
    expected = f"(B, {channels}, H, W)" if size is None else f"(B, {channels}, {size}, {size})"
    raise ModelError(
        f"The images have shape {tuple(x.shape)}; this model takes {expected}. "
        "Give images of that shape, or a model made for these images."
    )
