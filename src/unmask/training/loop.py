"""The training loop. It reads from top to bottom; every random draw derives from (seed, epoch or step)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unmask.data import DataSet
from unmask.errors import RecipeError
from unmask.files import make_folder, write_atomic
from unmask.streams import Streams, derive_generator
from unmask.training.augment import Augmentation
from unmask.training.checkpoints import State, capture, latest_checkpoint, restore, write_checkpoint
from unmask.training.objectives import Objective
from unmask.training.optimizers import ConstantRate, Optimizer, Schedule

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Training:
    """All that decides a training besides model, data and seed.

    `ema` is the decay of an exponential moving average of the weights, which is then the result. Raises RecipeError for
    settings that make no sense.
    """

    objective: Objective
    optimizer: Optimizer = Optimizer("adam", 1e-3)  # noqa: RUF009 - frozen
    schedule: Schedule = ConstantRate()  # noqa: RUF009 - frozen
    epochs: int = 10
    batch_size: int = 256
    augmentations: tuple[Augmentation, ...] = ()
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise RecipeError(f"epochs {self.epochs}, batch_size {self.batch_size}: expected 1 or more of each.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise RecipeError(f"The moving average's decay is {self.ema}; expected a number between 0 and 1.")

    def describe(self) -> dict[str, object]:
        """Return the settings as plain values, for records and fingerprints."""
        parts = {"optimizer": self.optimizer, "schedule": self.schedule}
        return {
            "objective": self.objective.describe(),
            **{name: {"kind": type(part).__name__, **asdict(part)} for name, part in parts.items()},
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "augmentations": [{"kind": type(part).__name__, **asdict(part)} for part in self.augmentations],
            "ema": self.ema,
        }


@dataclass(frozen=True)
class Progress:
    """What a watcher of the training is told after every step."""

    epoch: int
    step: int
    steps: int
    losses: dict[str, float]
    images_per_second: float


Watcher = Callable[[Progress], None]


def fit(
    model: nn.Module,
    data: DataSet,
    training: Training,
    *,
    seed: int,
    run_dir: Path | None = None,
    watch: Watcher | None = None,
    log: Callable[[dict[str, object]], None] | None = None,
) -> nn.Module:
    """Train `model` on `data` and return it (or its moving average), in eval mode.

    With a `run_dir`, checkpoints and `log.jsonl` (one line per epoch) are kept there, and the same call goes on from
    the newest checkpoint to bit-identical weights on the same hardware and thread count. `log` is given every line too.
    Raises RecipeError if the loss is no longer finite, CheckpointError if the folder belongs to another training.
    """
    optimizer = training.optimizer.build(model)
    average = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema), use_buffers=True)
        if training.ema
        else None
    )
    fingerprint = training_fingerprint(model, data, training, seed)
    steps_per_epoch = -(-len(data) // training.batch_size)
    step, sums = 0, _Sums()
    if run_dir is not None:
        make_folder(run_dir)
        state = latest_checkpoint(run_dir / CHECKPOINTS, fingerprint)
        if state is not None:
            restore(state, model, optimizer, average)
            step, sums = int(str(state.progress["step"])), _Sums.from_json(state.progress["sums"])
        _cut_log(run_dir / LOG, step // steps_per_epoch)

    saved = time.monotonic()
    model.train()
    while step < training.epochs * steps_per_epoch:
        epoch, begun = step // steps_per_epoch, time.monotonic()
        for index in _batches(data, training.batch_size, seed, epoch, skip=step % steps_per_epoch):
            batch = data.select(index)
            x, y = batch.pixels(), batch.labels
            noise = derive_generator(seed, "augment", step)
            for augmentation in training.augmentations:
                x = augmentation(x, noise)

            rate = training.optimizer.lr * training.schedule.factor(step / steps_per_epoch, training.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = training.objective.losses(
                model,
                x,
                y,
                lambda: Streams.derive(seed, index.tolist(), "attack", step, device=data.images.device),  # noqa: B023
            )
            optimizer.zero_grad(set_to_none=True)
            training.objective.total(losses).backward()
            optimizer.step()
            if average is not None:
                average.update_parameters(model)

            step += 1
            _check_finite(losses, model, epoch, step)
            sums.add(losses, len(y), time.monotonic() - begun)
            begun = time.monotonic()
            if watch is not None:
                watch(Progress(epoch, step, training.epochs * steps_per_epoch, sums.means(), sums.speed()))
            epoch_over = step % steps_per_epoch == 0  # its log line comes first, and the checkpoint after that
            overdue = time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
            if run_dir is not None and overdue and not epoch_over:
                _save(run_dir, step, capture(model, optimizer, average, sums.progress(step)), fingerprint)
                saved = time.monotonic()

        line: dict[str, object] = {"epoch": epoch + 1, "step": step, "learning_rate": rate, **sums.line()}
        sums = _Sums()
        if log is not None:
            log(line)
        if run_dir is not None:
            _append_log(run_dir / LOG, line)
            _save(run_dir, step, capture(model, optimizer, average, sums.progress(step)), fingerprint)
            saved = time.monotonic()
    result = model if average is None else average.module
    return result.eval()


def training_fingerprint(model: nn.Module, data: DataSet, training: Training, seed: int) -> str:
    """Hash all that decides the result: the model's form, the data, the settings and the seed."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    words = [type(model).__qualname__, shapes, data.fingerprint(), training.describe(), seed]
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()


def _batches(data: DataSet, batch_size: int, seed: int, epoch: int, skip: int) -> Iterator[Tensor]:
    order = torch.randperm(len(data), generator=derive_generator(seed, "order", epoch))
    return iter(order.split(batch_size)[skip:])


class _Sums:
    """Sums over one epoch: every loss term by name, images and seconds."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.images = 0
        self.seconds = 0.0

    @classmethod
    def from_json(cls, values: object) -> _Sums:
        sums = cls()
        assert isinstance(values, dict)
        sums.losses, sums.images, sums.seconds = dict(values["losses"]), values["images"], values["seconds"]
        return sums

    def add(self, losses: dict[str, Tensor], count: int, seconds: float) -> None:
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + float(loss.detach()) * count
        self.images += count
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        return {name: total / self.images for name, total in self.losses.items()}

    def speed(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def line(self) -> dict[str, object]:
        return {"losses": self.means(), "images_per_second": round(self.speed(), 1), "seconds": round(self.seconds, 2)}

    def progress(self, step: int) -> dict[str, object]:
        return {"step": step, "sums": {"losses": self.losses, "images": self.images, "seconds": self.seconds}}


def _check_finite(losses: dict[str, Tensor], model: nn.Module, epoch: int, step: int) -> None:
    """Raise RecipeError if a loss, or a weight after its step, is NaN or infinite: no checkpoint may hold it."""
    broken = [name for name, loss in losses.items() if not loss.isfinite()]
    if not broken and not get_total_norm(model.parameters()).isfinite():
        broken = ["the norm of the weights"]
    if broken:
        raise RecipeError(
            f"The training diverged: {', '.join(broken)} is no longer finite in epoch {epoch + 1} (step {step}). "
            "Checkpoints hold the last good state. Lower the learning rate or the term's weight."
        )


def _save(run_dir: Path, step: int, state: State, fingerprint: str) -> None:
    write_checkpoint(run_dir / CHECKPOINTS, step, state, fingerprint)


def _append_log(path: Path, line: dict[str, object]) -> None:
    earlier = path.read_bytes() if path.exists() else b""
    write_atomic(path, earlier + json.dumps(line).encode() + b"\n")


def _cut_log(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that the checkpoint does not hold, so that they are not logged twice."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > epochs:
            write_atomic(path, b"".join(lines[:epochs]))
