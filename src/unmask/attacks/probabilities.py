"""Class probabilities that keep a gradient, for attacks whose loss is made of them."""

from __future__ import annotations

from torch import Tensor

# At a gap of 10 the second class has a probability of 5e-5, of which float32 still holds three digits beside 1.
WIDEST_GAP = 10.0


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of logits (B, K), of flatter ones where it would be so sure that its gradient vanishes.

    Rows whose two largest logits are more than 10 apart are scaled down to that gap, by a factor that counts as
    constant; all others have their usual softmax. So a loss of probabilities has a gradient on logits of any scale.
    """
    top = logits.detach().topk(2, dim=1).values
    return (logits / ((top[:, :1] - top[:, 1:]) / WIDEST_GAP).clamp(min=1)).softmax(1)
