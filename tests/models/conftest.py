"""Trained-looking files for the tests of loading: weights, cards, runs and users' modules."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.models import build, zoo

Save = Callable[..., Path]
_numbers = count()


@pytest.fixture
def network() -> nn.Module:
    """Return a network whose weights are not those of any default."""
    return build("digits-cnn", generator=torch.Generator().manual_seed(77)).eval()


@pytest.fixture
def state(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


@pytest.fixture
def digits() -> Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def full_card(weights: Path, **changes: Any) -> dict[str, Any]:
    """Return a complete model card for a file of weights."""
    card: dict[str, Any] = {
        "name": weights.stem,
        "architecture": "digits-cnn",
        "classes": 10,
        "data": "digits",
        "threat": {"norm": "linf", "eps": "1/16"},
        "recipe": "digits-plain",
        "objective": "cross-entropy",
        "training": {"epochs": 1, "seed": 0},
        "figures": {"clean_accuracy": 0.9},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "command": "unmask train digits-plain",
        "hardware": "1 CPU core",
    }
    return {key: value for key, value in {**card, **changes}.items() if value is not ...}


@pytest.fixture
def save_model(state: dict[str, Tensor]) -> Save:
    """Return a function that writes weights with a card; a card entry of `...` is left out."""

    def save(weights: Path, card_name: str, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(state if tensors is None else tensors, weights)
        weights.with_name(card_name).write_text(json.dumps(full_card(weights, **changes)))
        return weights

    return save


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that stands in for the packaged weights."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    monkeypatch.setattr(zoo, "WEIGHTS", folder)
    return folder


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Return a function that writes a module into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    names: list[str] = []

    def write(source: str) -> str:
        names.append(f"user_module_{next(_numbers)}")
        (tmp_path / f"{names[-1]}.py").write_text(source)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)
