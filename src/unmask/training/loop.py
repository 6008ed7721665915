"""The training loop. It reads from top to bottom; every random draw derives from (seed, epoch or step)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from unmask.data import DataSet
from unmask.distributed import Workers
from unmask.environment import keep_freed_memory
from unmask.errors import RecipeError, unknown
from unmask.files import make_folder, write_atomic
from unmask.streams import Streams, derive_generator
from unmask.training.adversary import Memory, Precision
from unmask.training.augment import Augmentation, mixed
from unmask.training.batch_norm import add_auxiliary, drop_auxiliary, refresh
from unmask.training.checkpoints import State, capture, latest_checkpoint, restore, write_checkpoint
from unmask.training.objectives import Inputs, Objective
from unmask.training.optimizers import ConstantRate, Optimizer, Schedule
from unmask.training.penalties import Blend
from unmask.training.sharing import exchange_gradients, own_memory, places, summed, whole_memory
from unmask.training.validation import Validation
from unmask.training.weights import WeightAdversary, averaged

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
REFRESHED = 100


@dataclass(frozen=True)
class Training:
    """All that decides a training besides model, data and seed.

    `batch_size` counts the images of one step over all processes and accumulated passes (`accumulate` of them).
    `ema` is the decay of an exponential moving average of the weights, which is then the result; `swa` the share of the
    epochs after which they are averaged equally instead (batch-norm statistics are then made anew). `mixup` is
    the alpha of Zhang et al. 2018. `precision` is that of the training's own passes; adversaries have theirs.
    `rate_per`: the learning rate is given for batches of so many images, and scaled by the batch size.
    `sync_batch_norm` shares statistics among processes with CUDA; otherwise each normalises its own images. `compile`
    runs the training's own passes through torch.compile. Raises RecipeError for settings that make no sense.
    """

    objective: Objective
    optimizer: Optimizer = Optimizer("adam", 1e-3)  # noqa: RUF009 - frozen
    schedule: Schedule = ConstantRate()  # noqa: RUF009 - frozen
    epochs: int = 10
    batch_size: int = 256
    augmentations: tuple[Augmentation, ...] = ()
    ema: float | None = None
    swa: float | None = None
    mixup: float | None = None
    weight_adversary: WeightAdversary | None = None
    validation: Validation | None = None
    precision: Precision = "float32"
    accumulate: int = 1
    rate_per: int | None = None
    sync_batch_norm: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise RecipeError(f"epochs {self.epochs}, batch_size {self.batch_size}: expected 1 or more of each.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise RecipeError(f"The moving average's decay is {self.ema}; expected a number between 0 and 1.")
        if self.swa is not None and (self.ema is not None or not 0 <= self.swa < 1):
            raise RecipeError(
                f"swa is {self.swa} and ema {self.ema}; expected one of them, swa as a share of the epochs in [0, 1)."
            )
        if self.mixup is not None and not self.mixup > 0:
            raise RecipeError(f"mixup is {self.mixup}; expected a positive alpha, or None.")
        if self.precision not in get_args(Precision):
            raise RecipeError(unknown("precision of the training", self.precision, get_args(Precision)))
        if not 1 <= self.accumulate <= self.batch_size:
            raise RecipeError(f"accumulate is {self.accumulate}; expected 1 to the batch size, {self.batch_size}.")
        if self.replays > 1 and self.accumulate > 1:
            raise RecipeError("An adversary that replays its batches cannot accumulate passes: set accumulate to 1.")
        if self.weight_adversary is not None and self.accumulate > 1:
            raise RecipeError(
                "A weight adversary follows the gradient of the whole batch, but accumulated passes see parts of it: "
                "set accumulate to 1."
            )
        if self.sync_batch_norm and not torch.cuda.is_available():
            raise RecipeError("sync_batch_norm needs CUDA, which is not available here: leave it out.")

    @property
    def replays(self) -> int:
        """How many steps are made with the same images."""
        return 1 if self.objective.adversary is None else self.objective.adversary.replays

    @property
    def rate(self) -> float:
        """The learning rate before its schedule."""
        return self.optimizer.lr * (1.0 if self.rate_per is None else self.batch_size / self.rate_per)

    def describe(self) -> dict[str, object]:
        """Return the settings as plain values, for records and fingerprints."""
        parts = {"optimizer": self.optimizer, "schedule": self.schedule}
        plain = ("epochs", "batch_size", "ema", "swa", "mixup", "precision", "accumulate", "rate_per")
        return {
            "objective": self.objective.describe(),
            **{name: {"kind": type(part).__name__, **asdict(part)} for name, part in parts.items()},
            **{name: getattr(self, name) for name in (*plain, "sync_batch_norm", "compile")},
            "augmentations": [{"kind": type(part).__name__, **asdict(part)} for part in self.augmentations],
            "weight_adversary": None if self.weight_adversary is None else asdict(self.weight_adversary),
            "validation": None if self.validation is None else self.validation.describe(),
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
    """Train `model` on `data` and return it (or its average, or the best epoch's), in eval mode.

    With a `run_dir`, checkpoints and `log.jsonl` (one line per epoch) are kept there, and the same call goes on from
    the newest checkpoint to bit-identical weights on the same hardware and thread count. `log` is given every line too.
    Under torchrun the processes share every batch; the first one writes. Raises RecipeError if the loss is no longer
    finite, CheckpointError if the folder belongs to another training.
    """
    keep_freed_memory()
    workers, leads = Workers.here(), Workers.here().leads
    fingerprint = training_fingerprint(model, data, training, seed)
    validation = training.validation
    data, held_out = (data, None) if validation is None else validation.split(data, seed)
    if training.objective.auxiliary:
        add_auxiliary(model)
    if training.sync_batch_norm and workers.count > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = _laid_out(model)
    optimizer = training.optimizer.build(model)
    averages = training.ema is not None or training.swa is not None
    average = averaged(model, training.ema) if averages else None
    forward = _forward(model, training, data.images.device)
    steps_per_epoch = -(-len(data) // training.batch_size) * training.replays
    _check_shares(data, training, workers)
    warmup = training.weight_adversary.warmup if training.weight_adversary is not None else 0
    step, sums, memory, scores = 0, _Sums(), cast(Memory, {}), _Scores()
    if run_dir is not None:
        make_folder(run_dir)
        state = latest_checkpoint(run_dir / CHECKPOINTS, fingerprint)
        if state is not None:
            restore(state, model, optimizer, average)
            step, sums = int(str(state.progress["step"])), _Sums.from_json(state.progress["sums"])
            scores = _Scores.of(state)
            memory = own_memory(workers, state.part("memory/", data.images.device), training.batch_size)
        workers.barrier()
        if leads:
            _cut_log(run_dir / LOG, step // steps_per_epoch)

    def save(step: int) -> None:
        whole = whole_memory(workers, memory, training.batch_size)
        if run_dir is not None and leads:
            kept = {"memory": whole, "best": scores.best}
            state = capture(model, optimizer, average, {**sums.progress(step), "scores": scores.history}, kept)
            write_checkpoint(run_dir / CHECKPOINTS, step, state, fingerprint)

    saved = time.monotonic()
    model.train()
    while step < training.epochs * steps_per_epoch and not scores.over(validation):
        epoch, begun = step // steps_per_epoch, time.monotonic()
        for index in _batches(data, training, seed, epoch, skip=step % steps_per_epoch):
            lesson = _lesson(data, index, training, seed, step // training.replays)
            rate = training.rate * training.schedule.factor(step / steps_per_epoch, training.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            perturbing = training.weight_adversary if epoch >= warmup else None
            losses, attacking = _gradients(model, forward, training, workers, lesson, memory, seed, step, perturbing)
            exchange_gradients(workers, model)
            optimizer.step()
            if average is not None and (training.swa is None or epoch >= training.swa * training.epochs):
                average.update_parameters(model)

            step += 1
            _check_finite(losses, model, epoch, step)
            sums.add(losses, len(lesson.y), time.monotonic() - begun, attacking)
            begun = time.monotonic()
            if watch is not None:
                watch(Progress(epoch, step, training.epochs * steps_per_epoch, sums.means(), sums.speed()))
            epoch_over = step % steps_per_epoch == 0  # its log line comes first, and the checkpoint after that
            overdue = time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS
            if run_dir is not None and not epoch_over and workers.broadcast(overdue):
                save(step)
                saved = time.monotonic()

        line: dict[str, object] = {"epoch": epoch + 1, "step": step, "learning_rate": rate, **sums.line()}
        sums = _Sums()
        if validation is not None and held_out is not None:
            candidate = _result(model, average, training, data)
            line["validation"] = scores.add(validation, candidate, held_out, seed, workers)
            model.train()
        if log is not None and leads:
            log(line)
        if run_dir is not None:
            if leads:
                _append_log(run_dir / LOG, line)
            save(step)
            saved = time.monotonic()
    result = _result(model, average, training, data)
    if scores.best:
        result.load_state_dict(scores.best)
    return drop_auxiliary(result.to(memory_format=torch.contiguous_format)).eval()


class Lesson(NamedTuple):
    """One batch: ids in the data set (B,), augmented images, labels, and what mixup mixed in."""

    ids: Tensor
    x: Tensor
    y: Tensor
    blend: Blend | None


def _gradients(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    training: Training,
    workers: Workers,
    lesson: Lesson,
    memory: Memory,
    seed: int,
    step: int,
    weight_adversary: WeightAdversary | None,
) -> tuple[dict[str, Tensor], float]:
    """Leave the gradients of this process' share of a batch in the model.

    Returns every term's value on the whole batch, and the seconds that the adversary took.
    """
    objective, attacking, count = training.objective, 0.0, len(lesson.y)
    totals = {term.name: torch.zeros((), device=lesson.x.device) for term in objective.terms}
    for number in range(training.accumulate):
        rows = places(count, workers.rank * training.accumulate + number, workers.count * training.accumulate)
        ids, here = lesson.ids[rows].tolist(), rows.to(lesson.x.device)
        blend = None if lesson.blend is None else Blend(lesson.blend.partner[here], lesson.blend.share)
        streams = partial(Streams.derive, seed, ids, "attack", step, device=lesson.x.device)
        begun = time.monotonic()
        inputs = objective.attack(model, lesson.x[here], lesson.y[here], streams, blend, memory)
        attacking += time.monotonic() - begun
        measured = partial(_share, objective, model, forward, inputs, len(rows), count)
        with (
            nullcontext()
            if weight_adversary is None
            else weight_adversary.perturbed(model, partial(_total, objective, measured), partial(summed, workers))
        ):
            losses = measured()
            objective.total(losses).backward()
        if objective.adversary is not None and inputs.x_adv is not None:
            objective.adversary.learn(inputs.x, inputs.x_adv, memory)
        for name, loss in losses.items():
            totals[name] += loss.detach()
    summed(workers, list(totals.values()))
    return totals, attacking


def _share(
    objective: Objective,
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Inputs,
    part: int,
    whole: int,
) -> dict[str, Tensor]:
    return objective.shares(objective.measure(model, inputs, forward), part, whole)


def _total(objective: Objective, measured: Callable[[], dict[str, Tensor]]) -> Tensor:
    return objective.total(measured())


def _result(model: nn.Module, average: AveragedModel | None, training: Training, data: DataSet) -> nn.Module:
    """Return the model as it would be used now, in eval mode."""
    if average is None or not int(average.n_averaged):
        return model.eval()
    if training.swa is not None:
        index = torch.arange(len(data)).split(training.batch_size)[:REFRESHED]
        refresh(average.module, (data.select(part).pixels() for part in index))
    return average.module.eval()


def _forward(model: nn.Module, training: Training, device: torch.device) -> Callable[[Tensor], Tensor]:
    run = torch.compile(model) if training.compile else model
    if training.precision == "float32":
        return run

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return cast(Tensor, run(x).float())

    return forward


def _lesson(data: DataSet, index: Tensor, training: Training, seed: int, number: int) -> Lesson:
    batch = data.select(index)
    x, y, noise = batch.pixels(), batch.labels, derive_generator(seed, "augment", number)
    for augmentation in training.augmentations:
        x = augmentation(x, noise)
    if training.mixup is None:
        return Lesson(index, x, y, None)
    return Lesson(index, *mixed(x, y, training.mixup, noise))


def _laid_out(model: nn.Module) -> nn.Module:
    """Put convolutions into the layout in which passes are fastest."""
    convolves = any(weight.dim() == 4 for weight in model.parameters())
    return model.to(memory_format=torch.channels_last) if convolves else model


def _check_shares(data: DataSet, training: Training, workers: Workers) -> None:
    last = len(data) % training.batch_size or training.batch_size
    if 2 * workers.count * training.accumulate > last > 0 and workers.count * training.accumulate > 1:
        raise RecipeError(
            f"The last batch of an epoch has {last} images, too few for {workers.count} processes of "
            f"{training.accumulate} passes each: every one needs two. Choose another batch size."
        )


def training_fingerprint(model: nn.Module, data: DataSet, training: Training, seed: int) -> str:
    """Hash all that decides the result: the model's form, the data, the settings and the seed."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    words = [type(model).__qualname__, shapes, data.fingerprint(), training.describe(), seed]
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()


def _batches(data: DataSet, training: Training, seed: int, epoch: int, skip: int) -> Iterator[Tensor]:
    order = torch.randperm(len(data), generator=derive_generator(seed, "order", epoch))
    repeated = (index for index in order.split(training.batch_size) for _ in range(training.replays))
    return islice(repeated, skip, None)


class _Scores:
    """The validation's scores, an entry per epoch, and the weights of the best one."""

    def __init__(self, history: Sequence[float] = (), best: dict[str, Tensor] | None = None) -> None:
        self.history, self.best = [*history], best or {}

    @classmethod
    def of(cls, state: State) -> _Scores:
        return cls(cast(list[float], state.progress["scores"]), state.part("best/"))

    def add(
        self, validation: Validation, model: nn.Module, held_out: DataSet, seed: int, workers: Workers
    ) -> dict[str, float]:
        found = validation.scores(model, held_out, seed, workers)
        if not self.history or found[validation.by] > max(self.history):
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.history.append(found[validation.by])
        return found

    def over(self, validation: Validation | None) -> bool:
        return validation is not None and bool(self.history) and validation.is_over(self.history)


class _Sums:
    """Sums over one epoch: every loss term by name, images, seconds, and those of them that the adversary took."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.images = 0
        self.seconds = self.attacking = 0.0

    @classmethod
    def from_json(cls, values: object) -> _Sums:
        sums = cls()
        assert isinstance(values, dict)
        sums.losses, sums.images = dict(values["losses"]), values["images"]
        sums.seconds, sums.attacking = values["seconds"], values["attacking"]
        return sums

    def add(self, losses: dict[str, Tensor], count: int, seconds: float, attacking: float) -> None:
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + float(loss.detach()) * count
        self.images += count
        self.seconds += seconds
        self.attacking += attacking

    def means(self) -> dict[str, float]:
        return {name: total / self.images for name, total in self.losses.items()}

    def speed(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    def line(self) -> dict[str, object]:
        return {
            "losses": self.means(),
            "images_per_second": round(self.speed(), 1),
            "seconds": round(self.seconds, 2),
            "attack_share": round(self.attacking / max(self.seconds, 1e-9), 3),
        }

    def progress(self, step: int) -> dict[str, object]:
        return {"step": step, "sums": vars(self)}


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


def _append_log(path: Path, line: dict[str, object]) -> None:
    earlier = path.read_bytes() if path.exists() else b""
    write_atomic(path, earlier + json.dumps(line).encode() + b"\n")


def _cut_log(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that the checkpoint does not hold, so that they are not logged twice."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        if len(lines) > epochs:
            write_atomic(path, b"".join(lines[:epochs]))
