"""Shortcuts of residual networks that have no parameters."""

from torch import Tensor, nn
from torch.nn import functional as F


class PooledShortcut(nn.Module):
    """Average over `stride` x `stride` pixels and pad the missing channels with zeros, half of them on each side."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, C, H, W)` to `(B, C', H/stride, W/stride)`."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.padding, self.padding)) if self.padding else x
