"""A training that is interrupted anywhere, even by SIGKILL, ends with the bits of one that never was."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import unmask
from unmask.data import DataSet
from unmask.errors import OutputError
from unmask.models import build
from unmask.streams import derive_generator
from unmask.threat import Linf
from unmask.training import (
    CosineRate,
    GaussianNoise,
    Optimizer,
    PgdAdversary,
    Progress,
    Training,
    adversarial_training,
    fit,
    loop,
)
from unmask.training.loop import CHECKPOINTS, LOG

TRAINING = Training(
    adversarial_training(PgdAdversary(Linf("0.1"), steps=1, step_size=0.1)),
    Optimizer("sgd", 0.05, {"momentum": 0.9}),
    CosineRate(),
    epochs=3,
    batch_size=32,
    augmentations=(GaussianNoise(0.1),),
    ema=0.9,
)
STEPS_PER_EPOCH = 3
TIMES = ("seconds", "images_per_second", "attack_share")


class Interrupted(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def checkpoint_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)


def train(data: DataSet, run_dir: Path, watch: Callable[[Progress], None] | None = None) -> nn.Module:
    model = build("digits-cnn", generator=derive_generator("network"))
    return fit(model, data, TRAINING, seed=0, run_dir=run_dir, watch=watch)


def untimed_log(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_same_end(model: nn.Module, run_dir: Path, unbroken: tuple[nn.Module, Path]) -> None:
    for name, tensor in unbroken[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert untimed_log(run_dir) == untimed_log(unbroken[1])


@pytest.fixture(scope="module")
def unbroken(few: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    run_dir = tmp_path_factory.mktemp("unbroken")
    return train(few, run_dir), run_dir


def stop_at(step: int) -> Callable[[Progress], None]:
    def watch(now: Progress) -> None:
        if now.step == step:
            raise Interrupted

    return watch


@pytest.mark.parametrize("step", range(1, 3 * STEPS_PER_EPOCH + 1))
def test_interrupted_after_any_step(step: int, few: DataSet, tmp_path: Path, unbroken) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(few, run_dir, stop_at(step))
    began: list[int] = []
    model = train(few, run_dir, lambda now: began.append(now.step))
    assert began == [*range(step, 3 * STEPS_PER_EPOCH + 1)]
    assert_same_end(model, run_dir, unbroken)


@pytest.mark.parametrize("moment", ["_append_log", "write_checkpoint"])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_while_an_epoch_is_recorded(
    moment: str, epoch: int, few: DataSet, tmp_path: Path, unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its log line, or between the line and the checkpoint: no epoch is logged twice, none is left out."""
    run_dir, real = tmp_path / "run", getattr(loop, moment)
    at_epoch_end = iter(range(1, 100))

    def record(*args: object) -> object:
        if (moment == "_append_log" or args[1] == epoch * STEPS_PER_EPOCH) and (
            moment == "write_checkpoint" or next(at_epoch_end) == epoch
        ):
            raise Interrupted
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, moment, record)
        with pytest.raises(Interrupted):
            train(few, run_dir)
    assert_same_end(train(few, run_dir), run_dir, unbroken)


def test_interrupted_again_and_again(few: DataSet, tmp_path: Path, unbroken) -> None:
    run_dir = tmp_path / "run"
    for step in range(1, 3 * STEPS_PER_EPOCH + 1):
        with pytest.raises(Interrupted):
            train(few, run_dir, stop_at(step))
    assert_same_end(train(few, run_dir), run_dir, unbroken)


def test_a_finished_training_trains_no_further(few: DataSet, unbroken) -> None:
    model, run_dir = unbroken
    before = (run_dir / LOG).read_bytes()
    again = train(few, run_dir, stop_at(1))
    assert_same_end(again, run_dir, unbroken)
    assert (run_dir / LOG).read_bytes() == before
    assert again is not model
    assert not again.training


def test_with_the_newest_checkpoint_torn_the_one_before_leads_to_the_same_end(
    few: DataSet, tmp_path: Path, unbroken
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(few, run_dir, stop_at(6))
    newest = max((run_dir / CHECKPOINTS).iterdir())
    assert newest.name == "step-000000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    began: list[int] = []
    model = train(few, run_dir, lambda now: began.append(now.step))
    assert began[0] == 5
    assert_same_end(model, run_dir, unbroken)


def test_log_lines_that_no_checkpoint_holds_are_not_kept_twice(few: DataSet, tmp_path: Path, unbroken) -> None:
    """Both checkpoints after the second epoch's line are lost, as if the disk had dropped them."""
    run_dir = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(few, run_dir, stop_at(5))
    kept = {path.name: path.read_bytes() for path in (run_dir / CHECKPOINTS).iterdir()}
    with pytest.raises(Interrupted):
        train(few, run_dir, stop_at(8))
    for path in (run_dir / CHECKPOINTS).iterdir():
        path.unlink()
    for name, payload in kept.items():
        (run_dir / CHECKPOINTS / name).write_bytes(payload)
    assert len(untimed_log(run_dir)) == 2
    assert_same_end(train(few, run_dir), run_dir, unbroken)


def test_a_disk_that_fills_up_loses_nothing(
    few: DataSet, tmp_path: Path, unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, real = tmp_path / "run", os.write
    checkpoint = next((unbroken[1] / CHECKPOINTS).iterdir()).stat().st_size
    left = [int(4.5 * checkpoint)]

    def fills_up(descriptor: int, payload: memoryview) -> int:
        left[0] -= len(payload)
        if left[0] < 0:
            raise OSError(28, os.strerror(28))
        return real(descriptor, payload)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills_up)
        with pytest.raises(OutputError, match=r"No space left.*run the same command again: all that .* is kept"):
            train(few, run_dir)
    kept = sorted(path.name for path in (run_dir / CHECKPOINTS).iterdir())
    assert kept == ["step-000000003.safetensors", "step-000000004.safetensors"]
    assert_same_end(train(few, run_dir), run_dir, unbroken)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    kills = 20
    script = Path(__file__).with_name("killed_training.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(unmask.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(kills), "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    assert report["unbroken"] == {"began": [1], "status": 0}
    assert report["killed"]["status"] == 0
    began = report["killed"]["began"]
    assert len(began) == kills + 1
    assert began[0] == 1
    assert began == sorted(began)
    assert began[-1] > 3, "the killed trainings got nowhere"

    weights, expected = (load_file(tmp_path / name / "result.safetensors") for name in ("killed", "unbroken"))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert untimed_log(tmp_path / "killed") == untimed_log(tmp_path / "unbroken")
    assert not [*(tmp_path / "killed" / CHECKPOINTS).glob(".*")]
