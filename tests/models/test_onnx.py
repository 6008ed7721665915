"""ONNX files are models: read by the real runtime, asked in the batches they were exported for, refused where unfit."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from unmask.errors import CheckpointError, ModelError
from unmask.losses import predictions
from unmask.models import from_onnx, load_model

SHAPE, CLASSES = (2, 3, 3), 4
WEIGHTS = np.random.default_rng(0).normal(size=(18, CLASSES)).astype(np.float32)
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
LOGITS = X.flatten(1) @ torch.from_numpy(WEIGHTS)


def save(
    path: Path,
    batch: int | str = "batch",
    *,
    taken: int = TensorProto.FLOAT,
    given: int = TensorProto.FLOAT,
    last: str = "Identity",
    outputs: int = 1,
    inputs: int = 1,
) -> Path:
    """Write a linear classifier for batches of a size, or of any; `last` is an operation on its logits."""
    settings = {"axis": 1, "keepdims": 0} if last == "ArgMax" else {}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        helper.make_node(last, ["scores"], ["answers"], **settings),
    ]
    form = [batch] if last == "ArgMax" else [batch, CLASSES]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(name, taken, [batch, *SHAPE]) for name in ["images", "mask"][:inputs]],
        [
            helper.make_tensor_value_info("answers", given, form),
            helper.make_tensor_value_info("flat", TensorProto.FLOAT, [batch, 18]),
        ][:outputs],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("batch", ["batch", 1, 2, 5, 64])
def test_any_batch_gets_the_graphs_answers(tmp_path: Path, batch: int | str) -> None:
    model = from_onnx(save(tmp_path / "net.onnx", batch))
    for n in (1, 4, 5):
        torch.testing.assert_close(model(X[:n]), LOGITS[:n], rtol=1e-5, atol=1e-5)
    assert not model(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("batch", ["batch", 2])
def test_a_graph_with_channels_last_is_given_them_so(tmp_path: Path, batch: int | str) -> None:
    model = from_onnx(save(tmp_path / "net.onnx", batch), channels_last=True)
    x = X.movedim(-1, 1)  # the graph's images (B, 2, 3, 3) are height 2, width 3 and 3 channels
    torch.testing.assert_close(model(x), LOGITS, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"takes images of shape \(3, 2, 3\); it was given \(2, 3, 3\)"):
        model(X)


def test_probabilities_and_labels_are_read_as_such(tmp_path: Path) -> None:
    softmax = from_onnx(save(tmp_path / "p.onnx", 2, last="Softmax"), output="probabilities")
    torch.testing.assert_close(softmax(X).softmax(1), LOGITS.softmax(1), rtol=1e-5, atol=1e-5)
    path = save(tmp_path / "l.onnx", last="ArgMax", given=TensorProto.INT64)
    labels = from_onnx(path, output="labels", classes=CLASSES)
    assert torch.equal(predictions(labels(X)), LOGITS.argmax(1))
    with pytest.raises(ModelError, match="expected a matrix"):
        from_onnx(path)(X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": 2}, r"has 2 inputs \(images, mask\); expected one.*from_numpy"),
        ({"outputs": 2}, r"has 2 outputs \(answers, flat\); expected one.*from_numpy"),
        ({"taken": TensorProto.UINT8}, r"takes a tensor\(uint8\) of shape \(batch, 2, 3, 3\); expected float32 images"),
    ],
)
def test_graphs_of_another_form_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(save(tmp_path / "net.onnx", **settings))


@pytest.mark.parametrize("harm", [lambda data: b"", lambda data: b"no graph", lambda data: data[: len(data) // 2]])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = save(tmp_path / "net.onnx")
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ModelError, match=r"net\.onnx cannot be read as an ONNX model"):
        from_onnx(path)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no file"):
        from_onnx(tmp_path / "absent.onnx")


def test_without_the_runtime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'unmask\[onnx\]'"):
        from_onnx(save(tmp_path / "net.onnx"))


@pytest.mark.parametrize("x", [X[:, :1], X.flatten(1), X[:, None]])
def test_images_of_another_shape_are_refused(tmp_path: Path, x: Tensor) -> None:
    with pytest.raises(ModelError, match=r"takes images of shape \(2, 3, 3\); it was given"):
        from_onnx(save(tmp_path / "net.onnx"))(x)


def test_the_command_lines_word_for_it_is_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "net.onnx")
    loaded = load_model("~/net.onnx")
    torch.testing.assert_close(loaded.model(X), LOGITS, rtol=1e-5, atol=1e-5)
    assert (loaded.name, loaded.card, loaded.gradients) == ("net", None, False)
    with pytest.raises(ModelError, match="brings its own weights"):
        load_model("~/net.onnx", weights="w.pt")
    with pytest.raises(CheckpointError):  # other files are not taken for graphs
        load_model("~/net.safetensors")
