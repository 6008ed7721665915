"""The check that images have the shape a network was built for."""

from torch import Tensor

from unmask.errors import ModelError


def check_image_shape(x: Tensor, channels: int, size: int | None = None, *, smallest: int = 1) -> None:
    """Check that `x` is a batch of images `(B, channels, size, size)`.

    `size=None` leaves height and width free, from `smallest` pixels on.

    Raises ModelError with the shape that came and the one expected.
    """
    fits = x.ndim == 4 and x.shape[1] == channels
    if fits and (min(x.shape[2:]) >= smallest if size is None else tuple(x.shape[2:]) == (size, size)):
        return
    expected = f"(B, {channels}, H, W)" if size is None else f"(B, {channels}, {size}, {size})"
    if size is None and smallest > 1:
        expected += f" with H and W of at least {smallest}"
    raise ModelError(
        f"The images have shape {tuple(x.shape)}; this model takes {expected}. "
        "Give images of that shape, or a model made for these images."
    )
