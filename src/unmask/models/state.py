"""Reading tensors from files of weights, and fitting them into a network, without ever running code from the file."""

import hashlib
import io
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from unmask.errors import CheckpointError

PICKLES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 3
LONGEST = 200


def read_state(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors by name in a `.safetensors`, `.pt`, `.pth` or `.bin` file, on the CPU.

    A `sha256` given in hexadecimal is compared first. Raises CheckpointError where the file is missing, changed,
    damaged, of another kind, would run code, or holds no tensors; nothing in the file is executed in any case.
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"The weights {path} end in '{path.suffix}'; expected one of {', '.join(SUFFIXES)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"The weights {path} cannot be read: {error.strerror}. Check the path.") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise CheckpointError(
            f"The weights {path} have SHA-256 {found}, but their card says {sha256}: the file was changed or damaged. "
            "Restore it from its source."
        )
    content = _read_pickle(data, path) if path.suffix in PICKLES else _read_safetensors(data, path)
    return _tensors(content, path)


def fit_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors by name into `model`, in the model's own precision; `source` names them in errors.

    Prefixes left by `DataParallel` and `torch.compile` are removed. Raises CheckpointError that names up to three
    missing, unexpected and unfitting entries of each kind, or parameters that are not finite.
    """
    own = model.state_dict()
    state = _without_prefixes(state, own)
    _check_fit(own, state, source)
    try:
        model.load_state_dict({**own, **state})
    except RuntimeError as error:
        raise CheckpointError(f"The weights {source} cannot be copied into the model: {error}") from error
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"The weights {source} hold values that are not finite in {_first(broken)}. "
            "The training diverged or the file is damaged; use another checkpoint."
        )


def _read_safetensors(data: bytes, path: Path) -> Any:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The weights {path} are not a readable safetensors file ({error}): cut off, damaged or of another kind. "
            "Restore the file from its source."
        ) from error


def _read_pickle(data: bytes, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns about details of the format that the errors below already cover.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets many kinds through for damaged files
        code = _code_in(data, error)
        raise CheckpointError(_code_message(code, path) if code else _damage_message(error, path)) from error


def _code_in(data: bytes, error: Exception) -> str:
    """Name what a refused pickle would have called: torch's word for it, or its own where torch gave up earlier."""
    refused = re.search(r"(?i:unsupported) (?:global: )?GLOBAL (\S+)", str(error))
    if refused:
        return repr(refused[1].rstrip("."))
    try:
        operations = [operation.name for operation, _, _ in pickletools.genops(data)]
    except Exception:  # not a pickle
        return ""
    return "Python objects" if {"GLOBAL", "STACK_GLOBAL", "INST"} & set(operations) else ""


def _code_message(code: str, path: Path) -> str:
    return (
        f"The weights {path} hold more than tensors: loading asks for {code}, so it would run code; nothing was "
        "executed. Save tensors alone: torch.save(model.state_dict(), path), or safetensors."
    )


def _damage_message(error: Exception, path: Path) -> str:
    return (
        f"The weights {path} are not a readable PyTorch checkpoint ({type(error).__name__}): cut off, damaged or of "
        "another kind; nothing was executed. Restore the file, or save it again with torch.save(model.state_dict(), "
        "path)."
    )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in WRAPPERS:
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
            return dict(content)
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    raise CheckpointError(
        f"The weights {path} hold no mapping from parameter names to tensors, neither by themselves nor under "
        f"{', '.join(WRAPPERS)}. Save model.state_dict()."
    )


def _without_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for prefix in (*PREFIXES, *PREFIXES):
        if all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_fit(own: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> None:
    # The batch counter of batch norm matters to no prediction, and older checkpoints lack it.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    unfitting = [
        f"{key} is {_form(state[key])} where the model has {_form(value)}"
        for key, value in own.items()
        if key in state and isinstance(value, Tensor) and _form(state[key]) != _form(value)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape or kind": unfitting}
    faults = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
    if faults:
        raise CheckpointError(
            f"The weights {source} do not fit the model: {'; '.join(faults)}. "
            "Check that the architecture and the number of classes are those of the training."
        )


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"


def _first(names: list[str]) -> str:
    # Names come from the file: one may hold control characters, or be as long as the file.
    shown = [name[:LONGEST] if name.isprintable() else repr(name[:LONGEST]) for name in names[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(names) > SHOWN else "")
