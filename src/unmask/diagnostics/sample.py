"""What checks look at: some images of an audit, with a random stream for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from unmask.contract import Model
from unmask.streams import Streams
from unmask.threat import ThreatModel

Value = TypeVar("Value")
Keep = Callable[[str, Callable[[], Value]], Value]
"""How a long study keeps its parts: given a part's name and how to compute it, returns the part. Parts are JSON."""


def anew(name: str, compute: Callable[[], Value]) -> Value:
    """Compute the part `name`: nothing is kept."""
    return compute()


@dataclass(frozen=True)
class Sample:
    """Images x (B, C, H, W), labels y (B,), their ids, the model (in eval mode) and threat, and random streams."""

    model: Model
    x: Tensor
    y: Tensor
    ids: tuple[int, ...]
    threat: ThreatModel
    streams: Streams

    @classmethod
    def of(
        cls, model: Model, x: Tensor, y: Tensor, threat: ThreatModel, *, ids: Sequence[int] | None = None, seed: int = 0
    ) -> Sample:
        """Bind images to streams that derive from (seed, id); ids count from 0 unless given."""
        names = tuple(range(len(x)) if ids is None else ids)
        return cls(model, x, y, names, threat, Streams.derive(seed, names, "diagnostics", device=x.device))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.x)

    def first(self, n: int) -> Sample:
        """Return the first n images, all where there are fewer."""
        return self.select(torch.arange(min(n, len(self)), device=self.x.device))

    def select(self, rows: Tensor) -> Sample:
        """Return the images of `rows` (indices), in that order."""
        kept = tuple(self.ids[row] for row in rows.tolist())
        return replace(self, x=self.x[rows], y=self.y[rows], ids=kept, streams=self.streams.select(rows))

    def batches(self, size: int) -> list[Sample]:
        """Return the images in parts of `size`, in order; none of an empty sample."""
        return [self.select(torch.arange(len(self))[begin : begin + size]) for begin in range(0, len(self), size)]

    def child(self, *keys: object) -> Sample:
        """Return the sample with streams of their own, derived from these and `keys`."""
        return replace(self, streams=self.streams.child(*keys))
