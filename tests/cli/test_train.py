"""`unmask train`: settings shown, changed and trained again, users' own data and models, loggers, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import unmask
from unmask.data import load_data
from unmask.recipes import RECIPES, configure

MODULE = """
import torch

def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

def function():
    return lambda x: x.flatten(1)[:, :3]
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own(run) -> None:
    """Leave a user's images of three digits and module in the empty folder."""
    Path("my_nets.py").write_text(MODULE)
    arrays = {}
    for split in ("train", "test"):
        data = load_data("digits", split)
        few = data.select((data.labels < 3).nonzero()[:90, 0])
        arrays |= {f"x_{split}": few.pixels().numpy(), f"y_{split}": few.labels.numpy()}
    np.savez("own.npz", **arrays)
    np.savez("whole.npz", x=arrays["x_train"], y=arrays["y_train"])


def test_a_dry_run_prints_a_file_and_trains_nothing(run):
    shown = run("train", "digits-at", "--set", "adversary.steps=3", "--epochs", 2, "--seed", 4, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert not [*Path().iterdir()]
    Path("mine.toml").write_text(shown.stdout)
    found = configure("mine.toml")
    assert (found.seed, found.recipe.training.epochs, found.recipe.training.objective.adversary.steps) == (4, 2, 3)
    as_json = run("train", "mine.toml", "--dry-run", "--json")
    assert json.loads(as_json.stdout) == tomllib.loads(shown.stdout)


def test_the_settings_are_shown_kept_and_train_the_same_again(run):
    first = run("train", "digits-plain", "--set", "optimizer.lr=2e-3", "--epochs", 1, "--seed", 3, "--run-dir", "a")
    assert first.exit_code == 0, first.output
    assert "lr = 0.002" in first.stderr and "lr = 0.002" not in first.stdout
    again = run("train", "a/recipe.toml", "--run-dir", "b", "--json")
    cards = [json.loads(Path(f"{folder}/model.json").read_text()) for folder in "ab"]
    assert json.loads(again.stdout) == {**cards[1], "run_dir": "b"}
    assert cards[0] == cards[1]
    assert Path("a/recipe.toml").read_text() == Path("b/recipe.toml").read_text()
    assert cards[0]["command"] == "unmask train digits-plain --set optimizer.lr=0.002 --set epochs=1 --seed 3"


def test_own_data_and_model(run, own):
    words = ("--data", "own.npz", "--model", "my_nets:net", "--epochs", 2, "--run-dir", "net")
    done = run("train", "digits-clp", *words)
    assert done.exit_code == 0, done.output
    card = json.loads(Path("net/model.json").read_text())
    assert (card["data"], card["architecture"], card["classes"]) == ("own.npz", "my_nets:net", 3)
    assert "--set data=own.npz --set architecture=my_nets:net" in card["command"]
    weights = Path("net/model.safetensors").read_bytes()
    again = run("train", "net/recipe.toml", "--run-dir", "again")
    assert again.exit_code == 0 and Path("again/model.safetensors").read_bytes() == weights
    assert run("train", "digits-clp", *words).exit_code == 0

    assert "unmask audit my_nets:net --weights net/model.safetensors" in done.stdout
    audited = run("audit", "my_nets:net", "--weights", "net/model.safetensors", "-n", 20, "--budget", "quick", "--json")
    assert audited.exit_code == 0, audited.output
    assert json.loads(audited.stdout)["n"] == 20
    refused = run("audit", "net", "-n", 20)
    assert refused.exit_code == 2 and "my_nets:net --weights net/model.safetensors" in refused.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["digits-clip"], "digits-clp"),
        (["absent.toml"], "absent.toml"),
        (["digits-clp", "--set", "optimizer.lrr=1"], "'lr'"),
        (["digits-clp", "--set", "epochs"], "KEY=VALUE"),
        (["digits-clp", "--data", "minst"], "mnist"),
        (["digits-clp", "--data", "whole.npz"], "x_train"),
        (["digits-clp", "--data", "own.npz", "--model", "digits-cn"], "digits-cnn"),
        (["digits-clp", "--model", "my_nets:net"], "answers with 3 classes"),
        (["digits-clp", "--data", "own.npz", "--model", "my_nets:function"], "torch.nn.Module"),
        (["digits-clp", "--data", "own.npz", "--model", "my_nets:absent"], "absent"),
        (["digits-clp", "--log", "tensorbord"], "tensorboard"),
    ],
)
def test_mistakes_are_answered(run, own, words, expected):
    result = run("train", *words)
    assert result.exit_code == 2, result.output
    assert expected in result.output and "Traceback" not in result.output


def test_loggers_hear_of_every_epoch(run, monkeypatch):
    told = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            told.append("end")

        def log(self, numbers, step):
            told.append((step, "loss/cross_entropy" in numbers))

    wandb = ModuleType("wandb")
    wandb.init = lambda **words: told.append(words["config"]["optimizer.lr"]) or Run()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    done = run("train", "digits-plain", "--epochs", 2, "--run-dir", "net", "--log", "wandb")
    assert done.exit_code == 0, done.output
    assert told == [0.001, (1, True), (2, True), "end"]


def test_recipes_are_completed(monkeypatch):
    from typer.testing import CliRunner

    from unmask.cli.app import app

    monkeypatch.setenv("_UNMASK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "unmask train digits-c")
    monkeypatch.setenv("COMP_CWORD", "2")
    shown = CliRunner().invoke(app, [], prog_name="unmask")
    assert "digits-clp" in RECIPES and shown.stdout.split() == ["digits-clp"]


@pytest.mark.slow
def test_under_torchrun_the_first_process_speaks_and_writes(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "unmask"]
    source = str(Path(unmask.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    words = ["train", "digits-at", "--epochs", "1", "--run-dir", "net", "--json"]
    done = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert done.stderr.count('name = "digits-at"') == 1
    alone = unmask.train("digits-at", epochs=1)
    assert card["figures"]["clean_accuracy"] == pytest.approx(alone.card["figures"]["clean_accuracy"], abs=0.02)
    assert len((tmp_path / "net" / "log.jsonl").read_text().splitlines()) == 1
    finished = unmask.train("digits-at", epochs=1, run_dir=tmp_path / "net")
    assert card == {**finished.card, "run_dir": "net"}
