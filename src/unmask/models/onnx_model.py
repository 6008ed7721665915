"""ONNX files as models: answers alone, computed by ONNX Runtime on the CPU."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.errors import ModelError
from unmask.models.black_box import Array, Output, from_numpy
from unmask.models.callables import Classifier

SUFFIX = ".onnx"
OWN_SESSION = "Run the file in a session of your own and wrap that: unmask.models.from_numpy(function)."
ERRORS_ALONE = 3  # severity of what ONNX Runtime writes to stderr


def from_onnx(
    path: str | Path, *, output: Output = "logits", classes: int | None = None, channels_last: bool = False
) -> Classifier:
    """Return the model in an ONNX file, without gradients: images (B, C, H, W) in [0, 1] -> logits (B, K).

    The graph takes one float32 tensor of images and returns one tensor: by `output` "logits" (B, K), "probabilities"
    (B, K) or "labels" (B,) of that many `classes`, as `from_numpy` reads them. With `channels_last` it is given images
    (B, H, W, C), as graphs exported from Keras take them. Where it was exported for batches of a fixed size N, images
    are given to it N at a time, the last batch filled up with copies. It runs on the CPU with as many threads as torch.

    Raises ModelError where onnxruntime is not installed (the extra `onnx`), where the file cannot be read, or the graph
    has another form; the model raises it for images of another shape, and as `from_numpy` does.
    """
    path = Path(os.path.expanduser(path))
    session = _session(path)
    taken = _only(session.get_inputs(), "input", path)
    _only(session.get_outputs(), "output", path)
    if taken.type != "tensor(float)" or len(taken.shape) < 2:
        raise ModelError(
            f"The graph in {path} takes a {taken.type} of shape {_shown(taken.shape)}; expected float32 images "
            f"of shape (B, C, H, W). {OWN_SESSION}"
        )

    def run(images: Array) -> Any:
        return session.run(None, {taken.name: np.moveaxis(images, 1, -1) if channels_last else images})[0]

    shape = [taken.shape[0], taken.shape[-1], *taken.shape[1:-1]] if channels_last else taken.shape
    size = shape[0] if isinstance(shape[0], int) else None
    answers = from_numpy(run if size is None else _filled(run, size), output=output, classes=classes, batch_size=size)

    def model(x: Tensor) -> Tensor:
        if not _fits(x.shape[1:], shape[1:]):
            raise ModelError(
                f"The graph in {path} takes images of shape {_shown(shape[1:])}; it was given {_shown(x.shape[1:])}. "
                "Check that model and data belong together, and that channels_last is said where the graph wants it."
            )
        return answers(x)

    return model


def _session(path: Path) -> Any:
    try:
        runtime = import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(
            f"{path} needs ONNX Runtime, which cannot be imported ({error}). Install it: pip install 'unmask[onnx]'."
        ) from error
    if not path.is_file():
        raise ModelError(f"There is no file {path}. Check the path.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ALONE
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's kinds share no base
        raise ModelError(
            f"{path} cannot be read as an ONNX model ({type(error).__name__}: {error}). Restore the file, or export it "
            "again."
        ) from error


def _only(values: list[Any], kind: str, path: Path) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ModelError(f"The graph in {path} has {len(values)} {kind}s ({names}); expected one. {OWN_SESSION}")
    return values[0]


def _filled(run: Callable[[Array], Any], size: int) -> Callable[[Array], Any]:
    """Return `run` for at most `size` images: the batch is filled up with copies of its last one."""

    def of_fixed_size(images: Array) -> Any:
        copies = np.repeat(images[-1:], size - len(images), axis=0)
        return run(np.concatenate([images, copies]))[: len(images)]

    return of_fixed_size


def _fits(shape: torch.Size, expected: list[Any]) -> bool:
    return len(shape) == len(expected) and all(
        size == want or not isinstance(want, int) for size, want in zip(shape, expected, strict=True)
    )


def _shown(shape: Any) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
