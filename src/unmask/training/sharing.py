"""How a step is shared out: among processes, and among passes that accumulate one gradient. The whole batch counts.

Gradients are summed by one exchange after the backward pass. `DistributedDataParallel` is not used: it does not support
`torch.autograd.grad`, on which adversaries and penalties rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.distributed import Workers


def places(count: int, part: int, parts: int) -> Tensor:
    """Return which of `count` images belong to one of `parts` parts: int64, sorted by halves.

    Image i and its partner i + count/2 come to the same part, where they are partners again.
    """
    half = count // 2
    first = torch.arange(half)[part::parts]
    last = torch.arange(2 * half, count) if part == 0 else torch.arange(0)
    return torch.cat([first, first + half, last])


def summed(workers: Workers, tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one type by their sums over all processes, in one exchange."""
    if workers.count == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def exchange_gradients(workers: Workers, model: nn.Module) -> None:
    """Sum the gradients of all processes; batch-norm statistics become their mean, so that all models stay equal."""
    if workers.count == 1:
        return
    for weight in model.parameters():
        if weight.requires_grad and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    summed(workers, [weight.grad for weight in model.parameters() if weight.grad is not None])
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    for buffer in statistics:
        buffer.div_(workers.count)
    summed(workers, statistics)


def whole_memory(workers: Workers, memory: dict[str, Tensor], batch_size: int) -> dict[str, Tensor]:
    """Return an adversary's memory, a row per place in the batch, put together from all processes."""
    if workers.count == 1:
        return memory
    together: dict[str, Tensor] = {}
    for rank, part in enumerate(workers.gather({name: tensor.cpu() for name, tensor in memory.items()})):
        for name, rows in part.items():
            whole = together.setdefault(name, rows.new_zeros((batch_size, *rows.shape[1:])))
            whole[places(batch_size, rank, workers.count)] = rows
    return together


def own_memory(workers: Workers, memory: dict[str, Tensor], batch_size: int) -> dict[str, Tensor]:
    """Return this process' part of a memory."""
    if workers.count == 1:
        return memory
    return {name: rows[places(batch_size, workers.rank, workers.count)] for name, rows in memory.items()}
