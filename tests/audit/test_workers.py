"""Processes that share an audit find what one finds alone, also after one of them was killed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from unmask.distributed import Workers
from unmask.errors import AuditError
from unmask.ledger import Run, load_run, queries

# The process that is to be killed goes down within a batch, at its N-th look at the model; with N < 0 there is a second
# audit, in memory.
SCRIPT = """
import os, signal, sys
import torch, unmask
from unmask.distributed import Workers
from unmask.models import build

folder, mortal, last_call = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
data = unmask.load_data("digits", "test").first(30)
network = build("digits-cnn", generator=torch.Generator().manual_seed(1)).requires_grad_(False)
labels, calls = network(data.pixels()).argmax(1), 0

class Mortal(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network

    def forward(self, x):
        global calls
        calls += 1
        if calls == last_call and os.environ.get("RANK", "0") == mortal:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.network(x)

def told(folder, watched):
    found = unmask.audit(Mortal(), data.pixels(), labels, unmask.Linf(0.02), budget=150, claim=None, seed=5,
                         batch_size=16, run_dir=folder, ids=data.ids, watch=watched.append,
                         diagnostics=folder is not None)
    assert bool(watched) == Workers.here().leads
    return found.headline, found.x_adv.double().sum().item(), len(found.run.events["id"])

recorded = told(folder, [])
assert not last_call < 0 or told(None, []) == recorded
sys.stdout.write(repr(recorded))
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def _audit(folder: Path, count: int, mortal: int = -1, last_call: int = 0) -> list[tuple[int, str, str]]:
    """Run the script in some processes as torchrun does; returns code, output and errors of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(mortal), str(last_call)],
            env=ENVIRONMENT | (meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ends = [process.communicate(timeout=300) for process in running]
    return [(process.returncode, *end) for process, end in zip(running, ends, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("alone") / "run"
    [(code, _, errors)] = _audit(folder, 1)
    assert code == 0, errors
    return load_run(folder)


def _same(left: Run, right: Run) -> None:
    """Compare all that was decided, found and counted; only the clocks differ."""
    for name in set(left.events) - {"seconds"}:
        a, b = left.events[name], right.events[name]
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
    for a, b in zip(left.adversarial(), right.adversarial(), strict=True):
        assert np.array_equal(a, b)
    assert left.findings == right.findings and left.rounds == right.rounds
    assert left.result is not None and right.result is not None
    assert left.result.model_dump(exclude={"seconds"}) == right.result.model_dump(exclude={"seconds"})


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_both_return_it(alone, tmp_path):
    first, second = _audit(tmp_path / "run", 2, last_call=-1)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1] == second[1] != ""
    shared = load_run(tmp_path / "run")
    assert len(shared.rounds) > 4 and set(queries.statuses(shared)) == {"broken", "survived"}
    _same(alone, shared)
    for journal in ("events.jsonl", "events-1.jsonl"):
        assert (tmp_path / "run" / journal).stat().st_size


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_resumed_by_two_and_by_one(alone, tmp_path):
    survivor, killed = _audit(tmp_path / "1", 2, mortal=1, last_call=50)
    assert killed[0] == -9 and survivor[0] == 1
    assert "Another process of this run was lost" in survivor[2]
    left = load_run(tmp_path / "1")
    assert left.result is None and 0 < len(left.events["id"]) < len(alone.events["id"])
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    for count in (1, 2):
        assert [code for code, *_ in _audit(tmp_path / str(count), count)] == [0] * count
        _same(alone, load_run(tmp_path / str(count)))


@pytest.mark.slow
def test_under_torchrun_the_command_line_speaks_once(tmp_path):
    command = "torch.distributed.run --nproc-per-node 2 -m unmask audit mine:net --data digits -n 20 "
    command += "--eps 0.01 --claim none --budget 50 --run-dir run"
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from unmask.models import build\n"
        "def net():\n"
        "    return build('digits-cnn', generator=torch.Generator().manual_seed(0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verdict:") == 1 and done.stdout.count("Record:") == 1


class _Elsewhere(Workers):
    """The first process was given another seed."""

    def broadcast(self, value: Any) -> Any:
        return value.model_copy(update={"seed": value.seed + 1})


def test_a_process_that_was_given_another_audit_says_so(linear):
    model, x, y, _ = linear
    with pytest.raises(AuditError, match=r"another audit than process 0: seed is recorded as 1 and given as 0"):
        unmask.audit(model, x, y, unmask.Linf(0.03), budget="quick", workers=_Elsewhere())


def test_who_shares_the_work_can_be_named(linear, monkeypatch):
    model, x, y, _ = linear
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(unmask.UnmaskError, match=r"Start all by torchrun, or unset WORLD_SIZE"):
        unmask.audit(model, x, y, unmask.Linf(0.03), budget="quick", diagnostics=False)
    result = unmask.audit(model, x, y, unmask.Linf(0.03), budget="quick", diagnostics=False, workers=Workers())
    assert not torch.distributed.is_initialized() and result.headline
