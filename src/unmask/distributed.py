"""The processes that share one piece of work, as `torchrun` starts them; one process alone exchanges nothing."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from unmask.errors import UnmaskError, WorkersError

# A lost process ends the wait of the others at once; what takes long is work.
PATIENCE = timedelta(days=7)

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Workers:
    """This process (`rank`, from 0) among `count` that run the same program and exchange what they find.

    Every process must take part in every exchange, in the same order.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Self:
        """Join the processes that `torchrun` started, once for the whole life of this one; alone, join nothing.

        A group of `torch.distributed` that is there already is used as it is. Otherwise one is made where WORLD_SIZE is
        above 1: gloo for what lies on the CPU, NCCL for CUDA. Raises WorkersError where the others cannot be reached.
        """
        if not (dist.is_available() and dist.is_initialized()):
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            _start()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[_Value]) -> Sequence[_Value]:
        """Return every `count`-th of the items, beginning with that of this rank."""
        return items[self.rank :: self.count]

    def gather(self, value: _Value) -> list[_Value]:
        """Return the values of all processes in the order of their ranks; they are pickled, tensors best on the CPU.

        Raises WorkersError where a process was lost.
        """
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with _connected():
            dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: _Value) -> _Value:
        """Return the value of the first process on every one; raises WorkersError where a process was lost."""
        if self.count == 1:
            return value
        held: list[Any] = [value if self.leads else None]
        with _connected():
            dist.broadcast_object_list(held, src=0)
        return cast(_Value, held[0])

    def barrier(self) -> None:
        """Wait until every process has come here; raises WorkersError where one was lost."""
        self.gather(None)

    def together(self, work: Callable[[], _Value]) -> _Value:
        """Run `work`, which exchanges nothing, and return its result here once it has succeeded on every process.

        Where it raises on one, it raises on all: there its own error, elsewhere that error if it is an UnmaskError, or
        a WorkersError that names it.
        """
        done: list[_Value] = []
        self.everywhere(lambda: done.append(work()))
        return done[0]

    def everywhere(self, work: Callable[[], _Value]) -> list[_Value]:
        """Run `work` and return its results on all processes, in the order of their ranks; errors as in `together`."""
        if self.count == 1:
            return [work()]
        try:
            outcome: _Value | _Failed = work()
        except Exception as error:
            self.gather(_Failed(self._told(error)))
            raise
        found = self.gather(outcome)
        for told in found:
            if isinstance(told, _Failed):
                raise told.error
        return cast(list[_Value], found)

    def _told(self, error: Exception) -> UnmaskError:
        if isinstance(error, UnmaskError):
            return error
        return WorkersError(f"Process {self.rank} of {self.count} failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Failed:
    error: UnmaskError


def local_device(device: str) -> str:
    """Return "cuda" with the number that falls to this process on its machine, any other device as it is."""
    if device != "cuda" or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _start() -> None:
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun's store outlives a restart, and what the lost group left in it would meet the new one.
        fresh = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise WorkersError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the other processes cannot be reached: "
            f"{str(error).splitlines()[0]}. Start all by torchrun, or unset WORLD_SIZE to run one process alone."
        ) from error
    # Not before: a group made anew would meet the keys of the old one in the store that torchrun keeps.
    atexit.register(_end)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise WorkersError(
            f"Another process of this run was lost ({str(error).splitlines()[0][:200]}). What was recorded is kept: "
            "run the same command again to go on."
        ) from error
