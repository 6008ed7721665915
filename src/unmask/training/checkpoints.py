"""Training state on disk: one safetensors file per checkpoint, written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.files import draft_of, make_folder, remove, write_atomic

KEEP = 2


@dataclass(frozen=True)
class State:
    """Where a training stands: its tensors by name, and what else is needed to go on (plain JSON values)."""

    tensors: dict[str, Tensor]
    progress: dict[str, object]

    def part(self, prefix: str, device: torch.device | None = None) -> dict[str, Tensor]:
        """Return the tensors whose names begin with the prefix, without it."""
        return {
            name.removeprefix(prefix): tensor.to(device) if device else tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    progress: dict[str, object],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> State:
    """Collect weights, optimizer state, averaged weights and `more` named groups of tensors of a running training."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
    for group, members in (more or {}).items():
        tensors |= {f"{group}/{name}": tensor for name, tensor in members.items()}
    kept = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return State(kept, progress)


def restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None) -> None:
    """Put a captured state back into a model, optimizer and average built from the same settings."""
    model.load_state_dict(state.part("model/"))
    if average is not None:
        average.load_state_dict(state.part("average/"))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.part("optimizer/").items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def write_checkpoint(folder: Path, step: int, state: State, fingerprint: str) -> Path:
    """Write the state after `step` steps, and delete all but the newest checkpoints. Raises OutputError."""
    make_folder(folder)
    metadata = {"progress": json.dumps(state.progress), "fingerprint": fingerprint}
    path = folder / f"step-{step:09d}.safetensors"
    write_atomic(path, save(state.tensors, {**metadata, "digest": _digest(state.tensors, metadata)}))
    # Drafts are what processes left that were killed while writing.
    for old in (*_checkpoints(folder)[KEEP:], *folder.glob(draft_of(Path("step-*.safetensors")).name)):
        remove(old)
    return path


def latest_checkpoint(folder: Path, fingerprint: str) -> State | None:
    """Return the newest checkpoint that is whole, or None if there is none; a torn one is passed over.

    Raises CheckpointError if it was made by a training with other settings, data or seed, or if all are damaged.
    """
    found = _checkpoints(folder)
    for path in found:
        state = _read(path, fingerprint)
        if state is not None:
            return state
    if found:
        raise CheckpointError(
            f"All checkpoints in {folder} are damaged ({', '.join(path.name for path in found)}). Delete the folder to "
            "train from the start."
        )
    return None


def _read(path: Path, fingerprint: str) -> State | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    if metadata.pop("digest", None) != _digest(tensors, metadata):
        return None
    if metadata["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} belongs to a training with other settings, data or seed. Use another --run-dir, or delete it."
        )
    return State(tensors, json.loads(metadata["progress"]))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
