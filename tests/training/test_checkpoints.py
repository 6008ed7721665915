"""Checkpoints: they hold all that a training needs, and a damaged one is never taken for a whole one."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unmask.errors import CheckpointError, OutputError
from unmask.files import draft_of
from unmask.training import Optimizer
from unmask.training.checkpoints import KEEP, State, capture, latest_checkpoint, restore, write_checkpoint

PRINT = "f" * 64
OPTIMIZERS = [
    Optimizer("adam", 0.01),
    Optimizer("sgd", 0.1),
    Optimizer("sgd", 0.1, {"momentum": 0.9}, weight_decay=1e-3),
    Optimizer("rmsprop", 0.01, {"momentum": 0.9}),
]


def state_of(value: float, step: int = 0) -> State:
    return State({"model/weight": torch.full((3, 2), value), "model/count": torch.tensor(7)}, {"step": step})


def step_of(state: State | None) -> object:
    assert state is not None
    return state.progress["step"]


def train_a_step(model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None, seed: int) -> None:
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    if average is not None:
        average.update_parameters(model)


def averaged(model: nn.Module) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


@pytest.mark.parametrize("with_average", [False, True], ids=["", "average"])
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=lambda optimizer: f"{optimizer.name} {dict(optimizer.settings)}")
def test_a_restored_training_goes_on_bit_for_bit(settings, with_average, small, tmp_path: Path) -> None:
    model, other = small, type(small)()
    other.head.weight.data.add_(1)
    trainings = [(net, settings.build(net), averaged(net) if with_average else None) for net in (model, other)]
    for seed in range(3):
        train_a_step(*trainings[0], seed)
    write_checkpoint(tmp_path, 3, capture(*trainings[0], {"step": 3}), PRINT)
    found = latest_checkpoint(tmp_path, PRINT)
    assert found is not None
    restore(found, *trainings[1])
    for training in trainings:
        train_a_step(*training, 3)
    left, right = (capture(*training, {}) for training in trainings)
    assert left.tensors.keys() == right.tensors.keys()
    assert all(torch.equal(left.tensors[name], right.tensors[name]) for name in left.tensors)


def test_a_captured_state_does_not_change_with_the_model(small) -> None:
    state = capture(small, Optimizer("adam", 0.01).build(small), None, {})
    before = state.tensors["model/head.weight"].clone()
    small.head.weight.data.add_(1)
    assert torch.equal(state.tensors["model/head.weight"], before)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    progress = {"step": 12, "sums": {"losses": {"cross_entropy": 0.1 + 0.2}, "images": 3, "seconds": 1.5}}
    tensors = {
        "float": torch.tensor([0.1, -0.0, 1e-45]), "double": torch.tensor(1 / 3, dtype=torch.float64),
        "half": torch.ones(2, 0, 3, dtype=torch.float16), "count": torch.tensor([2**40]), "mask": torch.tensor([True]),
    }  # fmt: skip
    write_checkpoint(tmp_path, 12, State(tensors, progress), PRINT)
    found = latest_checkpoint(tmp_path, PRINT)
    assert found is not None
    assert found.progress == progress
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_an_empty_or_missing_folder_holds_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, PRINT) is None
    assert latest_checkpoint(tmp_path / "missing", PRINT) is None


def test_only_the_newest_are_kept_and_drafts_of_killed_processes_go(tmp_path: Path) -> None:
    torn = draft_of(tmp_path / "step-000000007.safetensors")
    torn.write_bytes(b"torn")
    stranger = tmp_path / "notes.txt"
    stranger.write_text("mine")
    for step in (1, 9, 10, 100):
        write_checkpoint(tmp_path, step, state_of(step, step), PRINT)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["notes.txt", "step-000000010.safetensors", "step-000000100.safetensors"]
    assert len(kept) == KEEP + 1
    assert step_of(latest_checkpoint(tmp_path, PRINT)) == 100


DAMAGES = {
    "cut short": lambda data: data[:-5],
    "cut in the header": lambda data: data[:20],
    "empty": lambda data: b"",
    "zeros of the same size": lambda data: bytes(len(data)),
    "a longer tail": lambda data: data + b"more",
    "not safetensors": lambda data: b"PK\x03\x04" + data,
    "a changed tensor": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a changed step": lambda data: data.replace(b'\\"step\\": 2', b'\\"step\\": 9'),
    "a changed fingerprint": lambda data: data.replace(b"ffff", b"eeee", 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
class TestDamage:
    def test_the_one_before_is_used(self, damage, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, 1, state_of(1, 1), PRINT)
        newest = write_checkpoint(tmp_path, 2, state_of(2, 2), PRINT)
        assert damage(newest.read_bytes()) != newest.read_bytes()
        newest.write_bytes(damage(newest.read_bytes()))
        assert step_of(latest_checkpoint(tmp_path, PRINT)) == 1

    def test_if_all_are_damaged_that_is_said(self, damage, tmp_path: Path) -> None:
        for step in (2, 22):
            path = write_checkpoint(tmp_path, step, state_of(step, step), PRINT)
            path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(
            CheckpointError, match=r"All checkpoints .* are damaged .*step-000000022.*Delete the folder"
        ):
            latest_checkpoint(tmp_path, PRINT)


def test_no_single_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 2, state_of(2, 2), PRINT)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            found = latest_checkpoint(tmp_path, PRINT)
        except CheckpointError as error:
            assert "damaged" in str(error)
            continue
        # A bit of the header may carry nothing: padding, or the order of its entries.
        assert step_of(found) == 2
        assert found is not None
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state_of(2).tensors.items())


def test_another_training_s_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, state_of(1), PRINT)
    with pytest.raises(CheckpointError, match=r"step-000000001.* other settings, data or seed. Use another --run-dir"):
        latest_checkpoint(tmp_path, "another")
    assert path.exists()


def test_a_full_disk_keeps_the_checkpoints_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, step, state_of(step, step), PRINT)

    def full(descriptor: int, payload: memoryview) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"step-000000003.*No space left.*Free some space"):
            write_checkpoint(tmp_path, 3, state_of(3, 3), PRINT)
    assert sorted(path.name[:14] for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]
    assert step_of(latest_checkpoint(tmp_path, PRINT)) == 2


def test_the_metadata_is_readable_by_others(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = write_checkpoint(tmp_path, 1, state_of(1, 1), PRINT)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["fingerprint"] == PRINT
    assert json.loads(metadata["progress"]) == {"step": 1}
