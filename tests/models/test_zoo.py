"""The packaged models: whatever files lie in the folder, with their cards checked."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError, ModelError
from unmask.models import load_model, zoo, zoo_card, zoo_names

Save = Callable[..., Path]


def test_an_empty_folder_holds_no_models(packaged: Path) -> None:
    assert zoo_names() == ()


def test_a_folder_that_does_not_exist_holds_no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "absent")
    assert zoo_names() == ()


def test_models_are_the_weights_with_a_card(packaged: Path, save_model: Save) -> None:
    save_model(packaged / "b-model.safetensors", "b-model.json")
    save_model(packaged / "a-0.5.safetensors", "a-0.5.json")
    (packaged / "no-card.safetensors").write_bytes(b"")
    (packaged / "no-weights.json").write_text("{}")
    assert zoo_names() == ("a-0.5", "b-model")
    assert zoo.zoo_path("a-0.5") == packaged / "a-0.5.safetensors"
    assert zoo_card("a-0.5")["name"] == "a-0.5"


def test_a_packaged_model_loads_by_name(packaged: Path, save_model: Save, network: nn.Module, digits: Tensor) -> None:
    save_model(packaged / "digits-plain.safetensors", "digits-plain.json")
    loaded = load_model("digits-plain")
    assert loaded.name == "digits-plain"
    assert loaded.card == zoo_card("digits-plain")
    assert loaded.source == "packaged model digits-plain"
    assert torch.equal(loaded.model(digits), network(digits))


def test_an_unknown_name_gets_a_suggestion(packaged: Path, save_model: Save) -> None:
    save_model(packaged / "digits-plain.safetensors", "digits-plain.json")
    for lookup in (zoo_card, zoo.zoo_path):
        with pytest.raises(ModelError, match=r"no packaged model 'digit-plain'.* Did you mean 'digits-plain'"):
            lookup("digit-plain")


def test_a_name_cannot_leave_the_folder(packaged: Path, save_model: Save) -> None:
    save_model(packaged.parent / "outside.safetensors", "outside.json")
    with pytest.raises(ModelError, match="no packaged model"):
        zoo.zoo_path("../outside")


def test_an_incomplete_card_names_what_it_lacks(packaged: Path, save_model: Save) -> None:
    save_model(packaged / "m.safetensors", "m.json", figures=..., hardware=...)
    with pytest.raises(CheckpointError, match="lacks figures, hardware"):
        zoo_card("m")
    with pytest.raises(CheckpointError, match="lacks figures, hardware"):
        load_model("m")


def test_changed_weights_are_refused(packaged: Path, save_model: Save, state: dict[str, Tensor]) -> None:
    weights = save_model(packaged / "m.safetensors", "m.json")
    checksum = zoo_card("m")["sha256"]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"SHA-256 .* card says {checksum}"):
        load_model("m")


def test_packaged_models_do_not_take_other_weights(packaged: Path, save_model: Save) -> None:
    weights = save_model(packaged / "m.safetensors", "m.json")
    with pytest.raises(ModelError, match="'m' brings its own weights"):
        load_model("m", weights=weights)


def test_every_model_that_is_really_packaged_loads() -> None:
    if not zoo_names():
        pytest.skip("no model is packaged in this checkout")
    for name in zoo_names():
        loaded = load_model(name)
        assert loaded.card is not None
        assert loaded.card["name"] == name
