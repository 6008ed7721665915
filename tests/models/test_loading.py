"""One word finds a classifier: runs, files, users' functions, architectures; and what is refused."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.errors import CheckpointError, ModelError
from unmask.models import build, load_model
from unmask.models.cards import read_card

Save = Callable[..., Path]
Write = Callable[[str], str]

pytestmark = pytest.mark.usefixtures("packaged")


# --- training runs and files with cards -------------------------------------------------------------------------------


def test_a_training_run_loads(tmp_path: Path, save_model: Save, network: nn.Module, digits: Tensor) -> None:
    save_model(tmp_path / "runs" / "clp" / "model.safetensors", "model.json", name="digits-clp")
    loaded = load_model(str(tmp_path / "runs" / "clp"))
    assert torch.equal(loaded.model(digits), network(digits))
    assert loaded.name == "digits-clp"
    assert loaded.source == str(tmp_path / "runs" / "clp")
    assert loaded.card is not None and loaded.card["recipe"] == "digits-plain"


def test_a_run_without_a_name_or_checksum_is_called_like_its_folder(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "clp" / "model.safetensors", "model.json", name=..., sha256=...)
    assert load_model(str(tmp_path / "clp")).name == "clp"


@pytest.mark.parametrize("card_name", ["model.json", "weights-7.json"])
def test_a_file_with_a_card_beside_it_loads(
    tmp_path: Path, save_model: Save, network: nn.Module, digits: Tensor, card_name: str
) -> None:
    path = save_model(tmp_path / "weights-7.safetensors", card_name)
    loaded = load_model(str(path))
    assert torch.equal(loaded.model(digits), network(digits))
    assert loaded.name == "weights-7"


def test_the_card_of_the_same_name_comes_first(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "w.safetensors", "model.json", name="other")
    save_model(tmp_path / "w.safetensors", "w.json", name="own")
    assert load_model(str(tmp_path / "w.safetensors")).name == "own"


def test_the_home_folder_is_understood(
    tmp_path: Path, save_model: Save, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model(tmp_path / "run" / "model.safetensors", "model.json", name="home")
    assert load_model("~/run").name == "home"
    assert load_model("digits-cnn", weights="~/run/model.safetensors").name == "digits-cnn"


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_folder_that_is_no_finished_run_says_what_it_lacks(tmp_path: Path, save_model: Save, missing: str) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {missing}"):
        load_model(str(tmp_path / "run"))


def test_a_file_without_a_card_says_how_to_name_the_architecture(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"no card \(w.json or model.json\)"):
        load_model(str(tmp_path / "w.safetensors"))


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        load_model(str(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize("spec", ["run", "run/model.safetensors"])
def test_what_brings_its_own_weights_takes_no_others(tmp_path: Path, save_model: Save, spec: str) -> None:
    path = save_model(tmp_path / "run" / "model.safetensors", "model.json")
    with pytest.raises(ModelError, match="brings its own weights"):
        load_model(str(tmp_path / spec), weights=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": ...}, 'has no "architecture"'),
        ({"architecture": 3}, 'has no "architecture"'),
        ({"architecture": "lenett"}, "Did you mean 'lenet'"),
        ({"classes": ...}, '"classes": null'),
        ({"classes": 1}, '"classes": 1; expected'),
        ({"classes": 10**12}, '"classes": 1000000000000; expected'),
        ({"classes": "10"}, '"classes": "10"; expected'),
        ({"classes": True}, '"classes": true; expected'),
        ({"sha256": "abc"}, '"sha256": "abc"; expected 64'),
        ({"sha256": None}, '"sha256": null; expected 64'),
        ({"sha256": "0" * 64}, "the file was changed or damaged"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused(
    tmp_path: Path, save_model: Save, changes: dict[str, Any], message: str
) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "holds a list"),
        (b"null", "holds a NoneType"),
    ],
)
def test_a_card_that_is_no_json_object_is_refused(tmp_path: Path, save_model: Save, text: bytes, message: str) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    (tmp_path / "run" / "model.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        load_model(str(tmp_path / "run"))


def test_a_card_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model card .* cannot be read: No such file"):
        read_card(tmp_path / "model.json")


def test_a_card_of_another_network_does_not_fit(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json", architecture="lenet")
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_model(str(tmp_path / "run"))


# --- architectures with weights ---------------------------------------------------------------------------------------


def test_an_architecture_takes_weights(
    tmp_path: Path, state: dict[str, Tensor], network: nn.Module, digits: Tensor
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model("digits-cnn", weights=tmp_path / "w.safetensors")
    assert torch.equal(loaded.model(digits), network(digits))
    assert loaded.name == "digits-cnn"
    assert loaded.source == f"digits-cnn with weights {tmp_path / 'w.safetensors'}"
    assert loaded.card is None


def test_the_number_of_classes_is_that_of_the_weights(tmp_path: Path, digits: Tensor) -> None:
    torch.save({"state_dict": build("digits-cnn", classes=4).state_dict()}, tmp_path / "w.pt")
    assert load_model("digits-cnn", weights=tmp_path / "w.pt").model(digits).shape == (5, 4)


def test_an_architecture_without_weights_is_no_model() -> None:
    with pytest.raises(ModelError, match="'lenet' is an architecture, which has no weights of its own"):
        load_model("lenet")


def test_a_folder_called_like_an_architecture_does_not_hide_it(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits-cnn").mkdir()
    save_file(state, tmp_path / "w.safetensors")
    assert load_model("digits-cnn", weights="w.safetensors").name == "digits-cnn"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lenet-mardy", "There is no model 'lenet-mardy'. Did you mean 'lenet-madry'"),
        ("", "There is no model ''"),
        ("no/such/run", "There is no model 'no/such/run'.*folder of a training run"),
        ("\0", "There is no model"),
        ("x" * 5000, "There is no model"),
    ],
)
def test_an_unknown_word_says_what_a_model_can_be(spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_packaged_models_are_suggested_too(packaged: Path, save_model: Save) -> None:
    save_model(packaged / "mnist-clp.safetensors", "mnist-clp.json")
    with pytest.raises(ModelError, match="Did you mean 'mnist-clp'"):
        load_model("mnist-cpl")
    with pytest.raises(ModelError, match="or a trained model: mnist-clp"):
        load_model("lenet")


# --- users' own functions ---------------------------------------------------------------------------------------------


def test_a_function_in_the_working_directory_is_called(user_module: Write, digits: Tensor) -> None:
    name = user_module("def build():\n    return lambda x: x.flatten(1)[:, :3]\n")
    loaded = load_model(f"{name}:build")
    assert torch.equal(loaded.model(digits), digits.flatten(1)[:, :3])
    assert (loaded.name, loaded.source, loaded.card) == (f"{name}:build", f"{name}:build", None)


def test_weights_are_loaded_into_the_users_module(
    user_module: Write, tmp_path: Path, state: dict[str, Tensor], network: nn.Module, digits: Tensor
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    name = user_module("from unmask.models import build\ndef make():\n    return build('digits-cnn')\n")
    loaded = load_model(f"{name}:make", weights=tmp_path / "w.safetensors")
    assert torch.equal(loaded.model(digits), network(digits))
    assert loaded.source == f"{name}:make with weights {tmp_path / 'w.safetensors'}"


def test_a_class_without_arguments_is_a_function_too(user_module: Write) -> None:
    name = user_module("import torch\nclass Net(torch.nn.Flatten):\n    pass\n")
    assert type(load_model(f"{name}:Net").model).__name__ == "Net"


def test_the_function_may_import_its_neighbours(user_module: Write, digits: Tensor) -> None:
    neighbour = user_module("model = abs\n")
    name = user_module(f"def build():\n    from {neighbour} import model\n    return model\n")
    assert torch.equal(load_model(f"{name}:build").model(digits), digits)


@pytest.mark.parametrize("source", ["def build():\n    return abs\n", "raise ValueError('no')\n"])
def test_the_import_path_is_left_as_it_was(user_module: Write, source: str) -> None:
    name = user_module(source)
    before = list(sys.path)
    with contextlib.suppress(ModelError):
        load_model(f"{name}:build")
    assert sys.path == before


def test_a_module_that_cleans_the_import_path_itself_does_no_harm(user_module: Write) -> None:
    name = user_module("import sys\nsys.path.pop(0)\nbuild = lambda: abs\n")
    before = list(sys.path)
    assert load_model(f"{name}:build").model is abs
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        ("def build():\n    return abs\n", "biuld", "has no 'biuld'. Did you mean 'build'.*Callables in it: build"),
        ("", "build", "has no 'build'.*Callables in it: none"),
        ("build = 3\n", "build", "is a int; expected a function"),
        ("def build():\n    raise ValueError('no file')\n", "build", "raised ValueError: no file"),
        ("def build():\n    raise SystemExit(2)\n", "build", "raised SystemExit: 2"),
        ("def build(depth):\n    return abs\n", "build", "without arguments raised TypeError.*'depth'"),
        ("def build():\n    return (abs, 3)\n", "build", "returned a tuple, which cannot be called"),
        ("def build():\n    pass\n", "build", "returned a NoneType, which cannot be called"),
        ("1 / 0\n", "build", "importing .* raised ZeroDivisionError"),
        ("def broken(:\n", "build", "importing .* raised SyntaxError"),
        ("import sys\nsys.exit('bye')\n", "build", "importing .* raised SystemExit: bye"),
        ("import no_such_dependency\n", "build", "raised ModuleNotFoundError.*no_such_dependency"),
    ],
)
def test_a_function_that_yields_no_model(user_module: Write, source: str, function: str, message: str) -> None:
    name = user_module(source)
    with pytest.raises(ModelError, match=message):
        load_model(f"{name}:{function}")


@pytest.mark.parametrize("spec", ["no_such_module:build", "no_such_module.inner:build", "json.no_such_part:build"])
def test_a_module_that_does_not_exist(spec: str) -> None:
    with pytest.raises(ModelError, match=f"{spec}: there is no module '(no_such_module|json.no_such_part)'"):
        load_model(spec)


@pytest.mark.parametrize("spec", [":", "a:", ":b", "./models.py:build", "a:b:c", "a.b:c.d", "https://x.org/model"])
def test_what_is_not_of_the_form_module_function(spec: str) -> None:
    with pytest.raises(ModelError, match="not of the form module:function"):
        load_model(spec)


def test_weights_need_a_module_to_go_into(user_module: Write, tmp_path: Path) -> None:
    name = user_module("def build():\n    return abs\n")
    with pytest.raises(ModelError, match=r"weights can only be loaded into a torch.nn.Module"):
        load_model(f"{name}:build", weights=tmp_path / "w.safetensors")


# --- what every loaded model is ---------------------------------------------------------------------------------------


def test_the_model_is_frozen_and_in_eval_mode(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    model = load_model(str(tmp_path / "run")).model
    assert isinstance(model, nn.Module)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_gradients_still_reach_the_images(tmp_path: Path, save_model: Save, digits: Tensor) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    load_model(str(tmp_path / "run")).model(digits.requires_grad_()).sum().backward()
    assert digits.grad is not None
    assert digits.grad.abs().max() > 0


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    before = torch.get_rng_state()
    load_model(str(tmp_path / "run"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_cannot_be_changed(tmp_path: Path, save_model: Save) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    loaded = load_model(str(tmp_path / "run"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used(tmp_path: Path, save_model: Save, device: str) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    with pytest.raises(ModelError, match=f"The device '{device}' cannot be used"):
        load_model(str(tmp_path / "run"), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
def test_the_model_goes_to_the_device(tmp_path: Path, save_model: Save, digits: Tensor, network: nn.Module) -> None:
    save_model(tmp_path / "run" / "model.safetensors", "model.json")
    logits = load_model(str(tmp_path / "run"), device="cuda").model(digits.cuda())
    torch.testing.assert_close(logits.cpu(), network(digits), atol=1e-2, rtol=1e-2)


def test_half_precision_weights_are_computed_in_full_precision(
    tmp_path: Path, save_model: Save, state: dict[str, Tensor], digits: Tensor
) -> None:
    half = {key: value.half() for key, value in state.items()}
    save_model(tmp_path / "run" / "model.safetensors", "model.json", half)
    model = load_model(str(tmp_path / "run")).model
    assert isinstance(model, nn.Module)
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[key].float())
    assert model(digits).dtype == torch.float32


def test_the_card_is_what_was_written(tmp_path: Path, save_model: Save) -> None:
    path = save_model(tmp_path / "run" / "model.safetensors", "model.json")
    assert load_model(str(tmp_path / "run")).card == json.loads(path.with_name("model.json").read_text())
