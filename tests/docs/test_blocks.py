"""The pages' code runs as it stands: Python blocks everywhere, commands in the guides; other commands are parsed."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper, save
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

from unmask import load_data
from unmask.cli.app import app
from unmask.losses import margin, predictions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = DOCS / "guides"
PAGES = sorted(
    [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("results/*.md"), *ROOT.glob("*.md")],
    key=lambda path: path.relative_to(ROOT).parts,
)


def run_python(example: Example) -> None:
    """Run a block in its page's namespace; one that begins with a file's name is that file, and is imported."""
    if name := re.match(r"# (\w+)\.py\n", example.parsed):
        Path(f"{name[1]}.py").write_text(example.parsed)
        import_module(name[1])
    else:
        PythonEvaluator()(example)


def run_commands(example: Example) -> None:
    for line in example.parsed.splitlines():
        if line.startswith("$ "):
            run_command(shlex.split(line[2:], comments=True), really=Path(example.path).parent == GUIDES)


def read_workflow(example: Example) -> None:
    """Hold that a workflow is YAML and that the commands of its steps are ones of ours."""
    (job,) = yaml.safe_load(example.parsed)["jobs"].values()
    commands = [shlex.split(step["run"], comments=True) for step in job["steps"] if "run" in step]
    assert any("unmask" in words for words in commands)
    for words in commands:
        run_command(words, really=False)


def run_command(words: list[str], *, really: bool) -> None:
    if "unmask" in words:
        redirected = words.index(">") if ">" in words else None
        arguments = words[words.index("unmask") + 1 : redirected]
        parse(arguments)
        if really:
            result = CliRunner().invoke(app, [found for word in arguments for found in sorted(glob(word)) or [word]])
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[0] == "python" and really:
        runpy.run_path(words[1], run_name="__main__")


def parse(arguments: list[str]) -> None:
    """Let the command line read a command, without running it."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def parsed(path: Path) -> Document:
    languages = {"python": run_python, "console": run_commands, "yaml": read_workflow}
    return Sybil([SkipParser(), *(CodeBlockParser(*pair) for pair in languages.items())]).parse(path)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


def write_graph(path: str) -> None:
    """Write the graph with half-precision images that docs/pipelines.md speaks of."""
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float16)
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT16, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", 10])],
        [numpy_helper.from_array(weights, "weights")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Yield what pages take as given: a model, images and labels; in an empty folder, left as it was found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    model, train_set, test_set = network(), load_data("digits", "train").first(128), load_data("digits", "test")
    logits = model(test_set.pixels()).detach()
    unsure = margin(logits, predictions(logits)).topk(20).indices  # these fall soon, so audits of them are short
    x, y = test_set.pixels()[unsure], predictions(logits)[unsure]
    write_graph("net.onnx")
    yield {
        "model": model,
        "net": model,
        "noisy_net": nn.Sequential(model, nn.Dropout(0.1)),
        "black_box": lambda images: model(images).detach(),
        "natural": network(1),
        "adversarially_trained": network(2),
        "train_set": train_set,
        "test_set": test_set,
        "x": x,
        "y": y,
        "x_test": x,
        "y_test": y,
        "folder": tmp_path / "training",
    }
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.parent == GUIDES else []) for path in PAGES],
    ids=[str(path.relative_to(ROOT)) for path in PAGES],
)
def test_a_pages_blocks_run(path: Path, given: dict[str, Any]) -> None:
    document = parsed(path)
    document.namespace.update(given)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize(
    "block",
    [
        "```python\nraise ZeroDivisionError\n```\n",
        "```console\n$ unmask audit mnist-at --no-such-option\n```\n",
        "```console\n$ unmask no-such-verb\n```\n",
        "```console\n$ torchrun --nproc-per-node 2 -m unmask train mnist-at --epochs many\n```\n",
        "```console\n$ make no-such-target\n```\n",
        "```yaml\njobs: {audit: {steps: [run: unmask audit net.onnx --no-such-option]}}\n```\n",
    ],
)
def test_a_block_that_does_not_run_is_noticed(tmp_path: Path, block: str) -> None:
    (tmp_path / "page.md").write_text(block)
    (example,) = parsed(tmp_path / "page.md").examples()
    with pytest.raises(Exception):  # noqa: B017 (each fails in its own way)
        example.evaluate()


def test_no_block_is_left_out() -> None:
    assert [path for path in PAGES if re.search(r"skip: (?:next|start)", path.read_text())] == []


def test_a_defence_takes_fifteen_lines() -> None:
    block = next(iter(parsed(GUIDES / "add-a-defence.md").examples())).parsed
    assert "audit(" in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
