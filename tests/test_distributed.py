"""Processes that share work: what they exchange, and what happens where one fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from unmask.distributed import Workers, local_device
from unmask.errors import LedgerError, WorkersError

SCRIPT = """
from unmask.distributed import Workers
from unmask.errors import LedgerError

workers = Workers.here()
assert Workers.here() == workers and workers.count == 2
print(workers.gather(workers.rank * 10), workers.broadcast(workers.rank), list(workers.share(range(5))))
print(workers.everywhere(lambda: -workers.rank), workers.together(lambda: workers.leads))
for failure in (LedgerError("no space"), KeyError("x")):
    def work():
        if workers.rank == 1:
            raise failure
    try:
        workers.together(work)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
workers.barrier()
"""


def test_two_processes_exchange_values_and_errors():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    command += ["--tee", "3", sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [[line.partition("]:")[2] for line in lines if line.startswith(f"[default{rank}]:")] for rank in (0, 1)]
    assert told[0] == ["[0, 10] 0 [0, 2, 4]", "[0, -1] True", "LedgerError: no space", told[0][3]]
    assert told[0][3] == "WorkersError: Process 1 of 2 failed: KeyError: 'x'"
    assert told[1] == ["[0, 10] 0 [1, 3]", "[0, -1] False", "LedgerError: no space", "KeyError: 'x'"]


def test_one_process_alone_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers = Workers.here()
    assert workers == Workers(0, 1) and workers.leads
    here = object()
    assert workers.gather(here) == workers.everywhere(lambda: here) == [here]
    assert workers.broadcast(here) is workers.together(lambda: here) is here
    assert list(workers.share("abc")) == ["a", "b", "c"]
    workers.barrier()
    with pytest.raises(LedgerError, match="full"):
        workers.together(lambda: (_ for _ in ()).throw(LedgerError("full")))
    assert not torch.distributed.is_initialized()


def test_a_group_that_cannot_meet_says_what_to_do(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WorkersError, match=r"cannot be reached: .* unset WORLD_SIZE to run one process alone"):
        Workers.here()


def test_each_process_computes_on_a_device_of_its_own(monkeypatch):
    assert local_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device("cuda") == "cuda:1" and local_device("cuda:0") == "cuda:0"
