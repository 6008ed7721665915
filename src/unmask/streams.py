"""One random stream per example, so that batch size, resume and the number of workers change no draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from unmask.errors import DataError

CPU = torch.device("cpu")


def derive_seed(*words: object) -> int:
    """Hash the words to a seed of 63 bits; equal words give equal seeds on every machine."""
    digest = blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_generator(*words: object) -> torch.Generator:
    """Return a CPU generator seeded from the words (see `derive_seed`)."""
    return torch.Generator().manual_seed(derive_seed(*words))


@dataclass(frozen=True)
class Streams:
    """Random streams, one per example of a batch (B), independent of which other examples are in it.

    Draws are made on the CPU and moved to `device`, so that they are the same on every device.
    """

    seeds: tuple[int, ...]
    device: torch.device = CPU
    _generators: dict[int, torch.Generator] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def derive(cls, seed: int, ids: Iterable[int], *words: object, device: torch.device | None = None) -> Streams:
        """Derive the stream of every example from (seed, example id, words), e.g. the attack's name and restart."""
        seeds = tuple(derive_seed(seed, int(i), *words) for i in ids)
        return cls(seeds, device or CPU)

    @classmethod
    def of(cls, generator: torch.Generator | Streams, x: Tensor) -> Streams:
        """Return streams for the images `x` (B, ...): as given, or one per row drawn from one generator.

        Raises DataError unless there is one stream per image.
        """
        if isinstance(generator, Streams):
            if len(generator) != len(x):
                raise DataError(f"{len(generator)} random streams came for {len(x)} images; give one stream per image.")
            return generator
        base = int(torch.randint(2**62, (1,), generator=generator, device=generator.device).item())
        return cls.derive(base, range(len(x)), device=x.device)

    def child(self, *words: object) -> Streams:
        """Return fresh streams, derived from these and the words; drawing from them leaves these as they are."""
        return Streams(tuple(derive_seed(seed, *words) for seed in self.seeds), self.device)

    def select(self, rows: Tensor) -> Streams:
        """Return the streams of some rows (bool mask or indices, 1-d); they go on where they stand."""
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return Streams(tuple(self.seeds[i] for i in index.tolist()), self.device, self._generators)

    def __len__(self) -> int:
        return len(self.seeds)

    def generators(self) -> list[torch.Generator]:
        """Return the generator of every example, made on first use."""
        for seed in self.seeds:
            if seed not in self._generators:
                self._generators[seed] = torch.Generator().manual_seed(seed)
        return [self._generators[seed] for seed in self.seeds]

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw from U[0, 1): float32 (B, *shape)."""
        return self._draw(torch.rand, shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw from N(0, 1): float32 (B, *shape)."""
        return self._draw(torch.randn, shape)

    def signs(self, shape: Sequence[int]) -> Tensor:
        """Draw -1 or +1 with equal odds: float32 (B, *shape)."""
        return torch.where(self.uniform(shape) < 0.5, -1.0, 1.0)

    def integers(self, high: int) -> Tensor:
        """Draw one integer of 0..high-1 per example: int64 (B,)."""
        return (self.uniform(()).double() * high).long().clamp(max=high - 1)

    def _draw(self, sample: object, shape: Sequence[int]) -> Tensor:
        assert callable(sample)
        rows = torch.empty((len(self), *shape), dtype=torch.float32)
        for row, generator in zip(rows, self.generators(), strict=True):
            row.copy_(sample(tuple(shape), generator=generator))
        return rows.to(self.device)
