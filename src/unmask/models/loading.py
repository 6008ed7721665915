"""Loading a classifier from one word: a packaged model, a training run, a file, a user's function, a network's name."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask.contract import usable_device
from unmask.errors import CheckpointError, ModelError, unknown
from unmask.models.callables import Classifier, call_named
from unmask.models.cards import find_card, read_card
from unmask.models.onnx_model import SUFFIX as ONNX
from unmask.models.onnx_model import from_onnx
from unmask.models.registry import ARCHITECTURES, build
from unmask.models.state import SUFFIXES, fit_state, read_state
from unmask.models.zoo import zoo_card, zoo_names, zoo_path


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be evaluated, its shown name, its card where it has one, and where it came from.

    `gradients` is False for a kind of model that never has any.
    """

    model: Classifier
    name: str
    card: dict[str, Any] | None
    source: str
    gradients: bool = True


def load_model(spec: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a classifier from images `(B, C, H, W)` in [0, 1] to logits `(B, K)`, in eval mode with frozen parameters.

    `spec` is tried as a packaged model's name, the folder of a training run, a file of weights with a card beside it,
    an ONNX file, `module:function`, and an architecture's name with `weights`. A module is moved to `device`; any other
    callable is taken as it is. Raises ModelError where the model cannot be found or built, CheckpointError where
    weights are missing, damaged, dangerous or do not fit.
    """
    target = usable_device(device)
    loaded = _find(spec, None if weights is None else Path(os.path.expanduser(weights)))
    if isinstance(loaded.model, nn.Module):
        loaded.model.to(target).eval().requires_grad_(False)
    return loaded


def _find(spec: str, weights: Path | None) -> LoadedModel:
    path = Path(os.path.expanduser(spec))
    if spec in zoo_names():
        _refuse_extra_weights(spec, weights)
        return _from_zoo(spec)
    # A folder that happens to be called like a network does not hide the network.
    if spec and os.path.isdir(path) and (spec not in ARCHITECTURES or (path / "model.json").is_file()):
        _refuse_extra_weights(spec, weights)
        return _from_run(path)
    if path.suffix in SUFFIXES:
        _refuse_extra_weights(spec, weights)
        return _from_file(path)
    if path.suffix == ONNX:
        _refuse_extra_weights(spec, weights)
        return LoadedModel(from_onnx(path), path.stem, None, str(path), gradients=False)
    if ":" in spec:
        return _from_callable(spec, weights)
    if spec in ARCHITECTURES:
        return _from_architecture(spec, weights)
    raise ModelError(
        f"{unknown('model', spec, [*zoo_names(), *ARCHITECTURES])} A model is also given as the folder of a training "
        "run, a .safetensors file with a card beside it, an .onnx file, or module:function."
    )


def _from_zoo(name: str) -> LoadedModel:
    card = zoo_card(name)
    return LoadedModel(_from_card(card, zoo_path(name)), name, card, f"packaged model {name}")


def _from_run(folder: Path) -> LoadedModel:
    card_path, weights = folder / "model.json", folder / "model.safetensors"
    for path in (card_path, weights):
        if not path.is_file():
            raise CheckpointError(
                f"The folder {folder} holds no {path.name}; a finished training run holds model.safetensors and "
                "model.json. Give such a folder, or wait for the training to end."
            )
    card = read_card(card_path)
    return LoadedModel(_from_card(card, weights), str(card.get("name") or folder.resolve().name), card, str(folder))


def _from_file(path: Path) -> LoadedModel:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}. Check the path.")
    card_path = find_card(path)
    if card_path is None:
        raise CheckpointError(
            f"The weights {path} have no card ({path.stem}.json or model.json) that names their architecture. "
            f"Name it yourself: the model is one of {', '.join(ARCHITECTURES)} or module:function, with {path} as its "
            "weights."
        )
    card = read_card(card_path)
    return LoadedModel(_from_card(card, path), str(card.get("name") or path.stem), card, str(path))


def _from_callable(spec: str, weights: Path | None) -> LoadedModel:
    model = call_named(spec)
    if weights is None:
        return LoadedModel(model, spec, None, spec)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec} returned a {type(model).__name__}; weights can only be loaded into a torch.nn.Module. "
            f"Leave out the weights {weights} and load them in the function."
        )
    card = _card_for(spec, weights)
    fit_state(model, read_state(weights, sha256=(card or {}).get("sha256")), str(weights))
    return LoadedModel(model, spec, card, f"{spec} with weights {weights}")


def _card_for(spec: str, weights: Path) -> dict[str, Any] | None:
    """Return the card that a training of this very model left beside the weights; other files there do not count."""
    path = find_card(weights)
    with suppress(CheckpointError):
        card = {} if path is None else read_card(path)
        return card if card.get("architecture") == spec else None
    return None


def _from_architecture(name: str, weights: Path | None) -> LoadedModel:
    if weights is None:
        raise ModelError(
            f"'{name}' is an architecture, which has no weights of its own. Give weights as well, or a trained model: "
            f"{', '.join(zoo_names()) or 'the folder of a training run'}."
        )
    state = read_state(weights)
    model = build(name, classes=_classes(state))
    fit_state(model, state, str(weights))
    return LoadedModel(model, name, None, f"{name} with weights {weights}")


def _from_card(card: dict[str, Any], weights: Path) -> nn.Module:
    if ":" in card["architecture"]:
        raise ModelError(
            f"The weights {weights} belong to a model of your own. A card does not decide which code runs, so name the "
            f"function yourself: {card['architecture']} --weights {weights}"
        )
    model = build(card["architecture"], classes=card["classes"])
    fit_state(model, read_state(weights, sha256=card.get("sha256")), str(weights))
    return model


def _classes(state: dict[str, Tensor]) -> int:
    """Read the number of classes off the last layer, which every network here calls `head`; 10 where it is absent."""
    sizes = {len(value) for key, value in state.items() if key.endswith("head.bias") and value.ndim == 1}
    return sizes.pop() if len(sizes) == 1 else 10


def _refuse_extra_weights(spec: str, weights: Path | None) -> None:
    if weights is not None:
        raise ModelError(
            f"'{spec}' brings its own weights, and {weights} was given as well. Leave the weights out, or name an "
            "architecture or module:function to load them into."
        )
