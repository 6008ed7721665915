"""The log of a training sent to TensorBoard, MLflow or Weights & Biases: extras of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, unknown
from unmask.files import make_folder, writing

Line = dict[str, object]
Log = Callable[[Line], None]
UNLOGGED = ("epoch", "step", "seconds")
RENAMED = {"losses": "loss"}


@dataclass(frozen=True)
class About:
    """What a logger is told of a training: its folder, which names it, and its settings by dotted key."""

    folder: Path
    settings: Mapping[str, object]


@contextmanager
def training_log(names: Sequence[str], folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[Log]:
    """Give a `log` for `fit` that sends every epoch's losses, rate, speed and scores to all loggers of these names.

    TensorBoard writes to `folder`/tensorboard; MLflow and W&B go where their own settings say, under the folder's name.
    Raises UnmaskError for a name that is not in LOGGERS, an extra that is not installed, or a logger that fails.
    """
    for name in names:
        if name not in LOGGERS:
            raise UnmaskError(unknown("logger", name, LOGGERS))
    about = About(folder, flat(settings or {}))
    with ExitStack() as opened:
        logs = [opened.enter_context(LOGGERS[name](about)) for name in dict.fromkeys(names)]

        def log(line: Line) -> None:
            for one in logs:
                one(line)

        yield log


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[Log]:
    """Give a `log` for `fit` that writes every epoch's numbers as scalars to event files.

    Raises UnmaskError if the extra is not installed, OutputError if the folder cannot be written.
    """
    board = _extra("torch.utils.tensorboard", "tensorboard", "TensorBoard")
    make_folder(folder)
    with writing(folder):
        writer = board.SummaryWriter(folder)

    def log(line: Line) -> None:
        with writing(folder):
            for name, value in scalars(line).items():
                writer.add_scalar(name, value, line["epoch"])
            writer.flush()

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def mlflow_log(about: About) -> Iterator[Log]:
    """Give a `log` for `fit` that makes an MLflow run of a training: settings as parameters, numbers as metrics."""
    mlflow = _extra("mlflow", "mlflow", "MLflow")
    with _answering("MLflow"):
        run = mlflow.start_run(run_name=about.folder.name)
    with run:
        with _answering("MLflow"):
            mlflow.log_params(dict(about.settings))

        def log(line: Line) -> None:
            with _answering("MLflow"):
                mlflow.log_metrics(scalars(line), step=line["epoch"])

        yield log


@contextmanager
def wandb_log(about: About) -> Iterator[Log]:
    """Give a `log` for `fit` that makes a Weights & Biases run of a training; its files go to the training's folder."""
    wandb = _extra("wandb", "wandb", "Weights & Biases")
    make_folder(about.folder)
    with _answering("Weights & Biases"):
        run = wandb.init(name=about.folder.name, dir=str(about.folder), config=dict(about.settings))
    with run:

        def log(line: Line) -> None:
            with _answering("Weights & Biases"):
                run.log(scalars(line), step=line["epoch"])

        yield log


LOGGERS: dict[str, Callable[[About], AbstractContextManager[Log]]] = {
    "tensorboard": lambda about: tensorboard_log(about.folder / "tensorboard"),
    "mlflow": mlflow_log,
    "wandb": wandb_log,
}


def scalars(line: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of an epoch's line by name: loss/cross_entropy, validation/robust, learning_rate, ..."""
    numbers: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            numbers |= {f"{RENAMED.get(name, name)}/{part}": number for part, number in value.items()}
        elif isinstance(value, int | float) and name not in UNLOGGED:
            numbers[name] = value
    return numbers


def flat(table: object, path: str = "") -> dict[str, object]:
    """Return the values of nested tables and lists by dotted key."""
    below = f"{path}." if path else ""
    if isinstance(table, Mapping):
        return {key: one for name, part in table.items() for key, one in flat(part, f"{below}{name}").items()}
    if isinstance(table, list):
        return flat(dict(enumerate(table)), path)
    return {path: table}


def _extra(module: str, extra: str, title: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UnmaskError(f"{title} is not installed. Install the extra: pip install 'unmask[{extra}]'.") from error


@contextmanager
def _answering(title: str) -> Iterator[None]:
    """Turn whatever a logger raises into an UnmaskError."""
    try:
        yield
    except Exception as error:
        raise UnmaskError(
            f"{title} failed: {type(error).__name__}: {error}. Mend its settings or leave it out; the training goes on "
            "from its last checkpoint with the same command."
        ) from error
