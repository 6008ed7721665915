"""What a computation costs: the examples that pass a model, forwards and backwards."""

from __future__ import annotations

from torch import Tensor, nn

from unmask.contract import Model


class Counting(nn.Module):
    """A model that counts the examples that pass it: `forwards`, and `backwards` of gradients through its answers."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's answer to images x (B, ...), and count."""
        self.forwards += len(x)
        logits = self.model(x)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
