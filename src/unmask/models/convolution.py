"""Convolution with TensorFlow's 'SAME' padding, in which the seeds' networks were defined."""

from torch import Tensor, nn
from torch.nn import functional as F


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many zeros go before and after `size` pixels so that `ceil(size / stride)` outputs remain."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """2-D convolution `(B, C, H, W) -> (B, C', ceil(H/stride), ceil(W/stride))` with TensorFlow's 'SAME' padding.

    At stride 2 on an even size TensorFlow pads only at the end, where torch's `padding=1` pads on both sides: the same
    weights would see the image shifted by one pixel.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images `(B, C, H, W)`."""
        top, bottom = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (left, right, top, bottom)))
