"""Several processes train as one does: the same weights, also after one of them was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unmask

SCRIPT = Path(__file__).with_name("shared_training.py")


def run(folder: Path, objective: str, *, processes: int, restarts: int = 0, kill_at: int = -1) -> dict[str, Tensor]:
    """Run the script alone or under torchrun and return the weights that it wrote."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    alone = ["-W", "ignore"]
    command = [sys.executable, *([*launcher, "--standalone"] if processes > 1 else alone), str(SCRIPT)]
    environment = {**os.environ, "PYTHONPATH": str(Path(unmask.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    arguments = [str(folder), objective, str(kill_at)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "result.safetensors")


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_after_a_kill(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", "paired", processes=1)
    shared = run(tmp_path / "shared", "paired", processes=2)
    assert_close(shared, alone)
    restarted = run(tmp_path / "restarted", "paired", processes=2, restarts=1, kill_at=3)
    assert (tmp_path / "restarted" / "killed").exists()
    assert all(torch.equal(restarted[name], tensor) for name, tensor in shared.items())
    lines = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("alone", "shared", "restarted")]
    assert len({len(log) for log in lines}) == 1
    scores = [[json.loads(line)["validation"] for line in log] for log in lines]
    assert scores[1] == scores[2]


@pytest.mark.slow
def test_a_perturbation_that_is_kept_between_steps_is_shared_too(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone", "free", processes=1)
    restarted = run(tmp_path / "restarted", "free", processes=2, restarts=1, kill_at=3)
    assert_close(restarted, alone)
