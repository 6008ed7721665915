"""Files of weights: damaged, dangerous and unfitting ones are refused, and nothing in them is ever executed."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.models import build
from unmask.models.resnet import ResNet20V2
from unmask.models.state import fit_state, read_state

PICKLES = [".pt", ".pth", ".bin"]


class Bomb:
    """Executes a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_saves(tmp_path: Path, state: dict[str, Tensor], suffix: str, zipped: bool) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert equal(read_state(path), state)


def test_reads_safetensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert equal(read_state(tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_wrappers_are_opened(tmp_path: Path, state: dict[str, Tensor], wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert equal(read_state(tmp_path / "w.pt"), state)


@pytest.mark.parametrize("content", [{}, [], 3, {"epoch": 3}, {"w": 3.0}, {3: torch.zeros(1)}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="no mapping from parameter names to tensors"):
        read_state(tmp_path / "w.pt")


def test_safetensors_without_tensors_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no mapping"):
        read_state(tmp_path / "w.safetensors")


def test_a_wrapper_that_holds_itself_is_not_followed_for_ever(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="no mapping"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, state: dict[str, Tensor], suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=re.escape(f"{path} are not a readable")):
        read_state(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6), st.binary(min_size=1, max_size=12), st.sampled_from([".safetensors", ".pt", ".legacy.pt"])
)
def test_damage_anywhere_is_an_error_for_the_user_or_none(tmp_path: Path, at: int, damage: bytes, suffix: str) -> None:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        path.write_bytes(save(tensors))
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == ".pt")
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(damage)] = damage
    path.write_bytes(data)
    try:
        found = read_state(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, Tensor) for value in found.values())


@pytest.mark.parametrize("content", [b"", b"hello world, this is no checkpoint", bytes(range(256)) * 8])
@pytest.mark.parametrize("suffix", [".safetensors", *PICKLES])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="are not a readable"):
        read_state(tmp_path / f"w{suffix}")


def test_an_archive_of_another_kind_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not a readable PyTorch checkpoint"):
        read_state(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_state(tmp_path / "w.safetensors")
    (tmp_path / "run.pt").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_state(tmp_path / "run.pt")


@pytest.mark.parametrize("name", ["w.h5", "w", "w.pkl"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"expected one of \.safetensors, \.pt, \.pth, \.bin"):
        read_state(tmp_path / name)


# --- code in the file -------------------------------------------------------------------------------------------------


def write_bomb(path: Path, marker: Path, form: str) -> None:
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(marker)}, protocol=4))
    else:
        torch.save({"weight": Bomb(marker)}, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", PICKLES)
def test_code_in_a_file_is_not_executed(tmp_path: Path, form: str, suffix: str) -> None:
    path, marker = tmp_path / f"w{suffix}", tmp_path / "executed"
    write_bomb(path, marker, form)
    with pytest.raises(
        CheckpointError, match=r"asks for ('posix.system'|Python objects), so it would run code; nothing was executed"
    ):
        read_state(path)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_the_same_file_does_run_code_where_it_is_trusted(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "w.pt", tmp_path / "executed"
    write_bomb(path, marker, form)
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists(), "the test above would prove nothing"


def test_a_renamed_pickle_is_no_safetensors_file(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    write_bomb(tmp_path / "w.safetensors", marker, "zip")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_state(tmp_path / "w.safetensors")
    assert not marker.exists()


def test_a_whole_model_is_refused_with_the_way_to_save_it(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"DigitsCNN'.*torch.save\(model.state_dict\(\), path\)"):
        read_state(tmp_path / "w.pt")


# --- fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(state: dict[str, Tensor], prefix: str) -> None:
    model = build("digits-cnn")
    fit_state(model, {prefix + key: value for key, value in state.items()}, "w.pt")
    assert equal(model.state_dict(), state)


def test_a_model_that_has_the_prefix_itself_keeps_it(state: dict[str, Tensor]) -> None:
    model = nn.DataParallel(build("digits-cnn"))
    fit_state(model, {f"module.{key}": value for key, value in state.items()}, "w.pt")
    assert equal(model.module.state_dict(), state)


def test_missing_entries_are_named(state: dict[str, Tensor]) -> None:
    del state["conv1.weight"], state["head.bias"]
    with pytest.raises(CheckpointError, match=r"w.pt do not fit the model: 2 missing \(conv1.weight, head.bias\)\. "):
        fit_state(build("digits-cnn"), state, "w.pt")


def test_unexpected_entries_are_named_up_to_three(state: dict[str, Tensor]) -> None:
    extra = {f"extra{index}": torch.zeros(1) for index in range(4)}
    with pytest.raises(CheckpointError, match=r"4 unexpected \(extra0, extra1, extra2, \.\.\.\)"):
        fit_state(build("digits-cnn"), {**state, **extra}, "w.pt")


def test_names_from_a_file_are_shown_without_control_characters_and_cut(state: dict[str, Tensor]) -> None:
    extra = {"\x1b[2J": torch.zeros(1), "x" * 10_000: torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"2 unexpected \('\\x1b\[2J', x+\)") as caught:
        fit_state(build("digits-cnn"), {**state, **extra}, "w.pt")
    assert len(str(caught.value)) < 1000


def test_shapes_are_named_on_both_sides(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"head.weight is \(10, 128\) where the model has \(7, 128\)"):
        fit_state(build("digits-cnn", classes=7), state, "w.pt")


def test_faults_of_several_kinds_are_told_together(state: dict[str, Tensor]) -> None:
    state["other"] = state.pop("conv1.bias")
    state["conv2.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"1 missing .*1 unexpected .*1 of another shape or kind"):
        fit_state(build("digits-cnn"), state, "w.pt")


def test_integers_do_not_become_weights(state: dict[str, Tensor]) -> None:
    state["head.weight"] = torch.zeros(10, 128, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"head.weight is \(10, 128\) int8 where the model has \(10, 128\)"):
        fit_state(build("digits-cnn"), state, "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(state: dict[str, Tensor], value: float) -> None:
    state["head.bias"] = torch.full((10,), value)
    with pytest.raises(CheckpointError, match=r"not finite in head\.bias"):
        fit_state(build("digits-cnn"), state, "w.pt")


def test_tensors_without_data_are_refused(state: dict[str, Tensor]) -> None:
    state["head.bias"] = torch.zeros(10, device="meta")
    with pytest.raises(CheckpointError, match="cannot be copied into the model"):
        fit_state(build("digits-cnn"), state, "w.pt")


def test_batch_norm_statistics_are_needed_but_not_its_counter() -> None:
    model, other = ResNet20V2(10, width=2), ResNet20V2(10, width=2)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    fit_state(other, state, "w.pt")
    assert equal(other.state_dict(), model.state_dict())
    del state["stages.0.0.norm1.running_mean"]
    with pytest.raises(CheckpointError, match="1 missing"):
        fit_state(other, state, "w.pt")


def test_double_precision_is_kept_where_the_model_has_it(state: dict[str, Tensor]) -> None:
    model = build("digits-cnn").double()
    double = {key: value.double() / 3 for key, value in state.items()}
    fit_state(model, double, "w.pt")
    assert equal(model.state_dict(), double)
