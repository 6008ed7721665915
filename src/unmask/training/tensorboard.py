"""The log of a training as TensorBoard scalars: an extra of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from unmask.errors import UnmaskError
from unmask.files import make_folder, writing


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[Callable[[dict[str, object]], None]]:
    """Give a `log` for `fit` that writes every epoch's losses, learning rate and speed as scalars to event files.

    Raises UnmaskError if the extra is not installed, OutputError if the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnmaskError(
            "TensorBoard is not installed. Install the extra: pip install 'unmask[tensorboard]'."
        ) from error

    make_folder(folder)
    with writing(folder):
        writer = SummaryWriter(folder)

    def log(line: dict[str, object]) -> None:
        losses = cast(Mapping[str, float], line["losses"])
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        scalars |= {name: cast(float, line[name]) for name in ("learning_rate", "images_per_second")}
        with writing(folder):
            for name, value in scalars.items():
                writer.add_scalar(name, value, line["epoch"])
            writer.flush()

    try:
        yield log
    finally:
        writer.close()
