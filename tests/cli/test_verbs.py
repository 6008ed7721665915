"""The verbs as a user types them: a whole story on the digits, and every mistake answered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from unmask.cli.app import app

USER_MODULE = """
import torch

def rounded():
    weights = torch.linspace(-1, 1, 640).view(10, 64).sin()
    return lambda x: (x * 4).round().flatten(1) @ weights.T

def probabilities():
    return lambda x: torch.softmax(x.flatten(1)[:, :10], 1)

def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.fixture(scope="session")
def net(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "net"
    done = CliRunner().invoke(app, ["train", "digits-plain", "--epochs", "2", "--run-dir", str(folder)])
    assert done.exit_code == 0, done.output
    assert "unmask audit" in done.output
    return folder


@pytest.fixture
def trained(run, net) -> Path:
    """Put a small trained model into the empty folder; returns its path."""
    return Path(shutil.copytree(net, "net"))


def test_train_audit_verify_report(run, trained):
    again = run("train", "digits-plain", "--epochs", 2, "--run-dir", "net", "--json")
    assert json.loads(again.stdout)["figures"]["clean_accuracy"] > 0.5

    audited = run("audit", "net", "-n", 60, "--budget", "quick", "--eps", 0.1, "--run-dir", "audit", "--json")
    assert audited.exit_code == 0, audited.output
    summary = json.loads(audited.stdout)
    assert 0 <= summary["robust_accuracy"] <= summary["claimed_accuracy"] <= summary["clean_accuracy"]
    assert summary["n"] == 60 and summary["run_dir"] == "audit"

    shown = run("audit", "net", "-n", 60, "--budget", "quick", "--eps", 0.1, "--run-dir", "audit")
    assert shown.exit_code == 0 and summary["headline"] in shown.output and "Verdict" in shown.output

    verified = run("verify", "audit")
    assert verified.exit_code == 0 and "confirmed" in verified.output

    reported = run("report", "audit", "-o", "page.html")
    assert reported.exit_code == 0, reported.output
    page = Path("page.html").read_text()
    assert "<!doctype html>" in page and "Linf(0.1)" in page


def test_fail_under(run, trained):
    words = ("audit", "net", "-n", 30, "--budget", "quick", "--eps", 0.3, "--fail-under", 0.99)
    assert run(*words).exit_code == 1
    assert run(*words[:-1], 0).exit_code == 0


def test_a_users_own_model_and_images(run):
    Path("mine.py").write_text(USER_MODULE)
    rng = np.random.default_rng(0)
    np.savez("images.npz", x=rng.random((40, 1, 8, 8), dtype=np.float32), y=rng.integers(0, 10, 40))
    audited = run(
        "audit",
        "mine:rounded",
        "--data",
        "images.npz",
        "--split",
        "all",
        "--eps",
        "8/255",
        "--budget",
        "quick",
        "--json",
    )
    assert audited.exit_code == 0, audited.output
    summary = json.loads(audited.stdout)
    assert "gradients" in [finding["check"] for finding in summary["findings"] if finding["status"] == "fail"]
    verified = run("verify", summary["run_dir"], "--json")
    assert verified.exit_code == 0 and json.loads(verified.stdout)["refuted"] == {}


def test_weights_for_a_users_module_are_remembered_by_verify(run):
    Path("mine.py").write_text(USER_MODULE)
    generator = torch.Generator().manual_seed(0)
    weights = {"1.weight": torch.randn(10, 64, generator=generator), "1.bias": torch.zeros(10)}
    save_file(weights, "net.safetensors")
    words = ("audit", "mine:network", "--weights", "net.safetensors", "--data", "digits", "-n", 30, "--eps", 0.1)
    assert run(*words, "--budget", "quick", "--run-dir", "run").exit_code == 0
    assert run("verify", "run").exit_code == 0


@pytest.mark.parametrize(
    "kind", ["models", "recipes", "data", "attacks", "budgets", "moves", "architectures", "losses"]
)
def test_lists(run, kind):
    assert run("list", kind).exit_code == 0
    entries = json.loads(run("list", kind, "--json").stdout)
    assert entries and all("name" in entry for entry in entries)


def test_data_info(run):
    found = run("data", "info", "digits", "--json")
    assert json.loads(found.stdout)["n"] == 360
    assert "360 images" in run("data", "info", "digits").output


def test_doctor(run):
    found = run("doctor", "--json")
    assert found.exit_code == 0, found.output
    assert {row["status"] for row in json.loads(found.stdout)} == {"ok"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["audti", "net"], "audit"),
        (["train", "digits-clip"], "digits-clp"),
        (["list", "modles"], "models"),
        (["audit", "mnist-clpp"], "mnist-clp"),
        (["audit", "net", "--eps", "8"], "8/255"),
        (["audit", "net", "--eps", "many"], "8/255"),
        (["audit", "net", "--norm", "l3", "--eps", "1"], "l2"),
        (["audit", "net", "--norm", "l2"], "--eps"),
        (["audit", "net", "--budget", "standart"], "standard"),
        (["audit", "net", "--claim", "pdg-40"], "pgd-40"),
        (["audit", "net", "--data", "minst"], "mnist"),
        (["audit", "net", "-n", "100000"], "360"),
        (["audit", "net", "--split", "tset"], "test"),
        (["audit", "net", "--device", "cuda:99"], "cuda:99"),
        (["train", "digits-plain", "--device", "gpu"], "gpu"),
        (["audit", "net", "--run-dir", "file/below"], "file/below"),
        (["audit", "net", "--run-dir", "foreign"], "foreign"),
        (["train", "digits-plain", "--run-dir", "file/below"], "file/below"),
        (["audit", "mine:probabilities", "--data", "digits", "--eps", "0.1"], "from_probabilities"),
        (["audit", "mine:absent", "--data", "digits", "--eps", "0.1"], "absent"),
        (["audit", "mine:rounded", "--eps", "0.1"], "--data"),
        (["audit", "mine:rounded", "--data", "digits"], "--eps"),
        (["audit", "torn.safetensors", "--data", "digits", "--eps", "0.1"], "torn.safetensors"),
        (["audit", "mine:network", "--weights", "evil.pt", "--data", "digits", "--eps", "0.1"], "nothing was executed"),
        (["audit", "net", "--data", "bright.npz", "--split", "all"], "255"),
        (["verify", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["data", "prepare", "imagenet", "x.zip"], "tiny-imagenet"),
        (["data", "prepare", "tiny-imagenet", "x.zip"], "x.zip"),
        (["data", "info", "digits", "--split", "tset"], "test"),
    ],
)
def test_mistakes_are_answered(run, trained, words, expected):
    Path("file").write_text("")
    Path("foreign").mkdir()
    Path("foreign/notes.txt").write_text("mine")
    Path("mine.py").write_text(USER_MODULE)
    Path("torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    Path("torn.json").write_text('{"architecture": "digits-cnn", "classes": 10}')
    rng = np.random.default_rng(0)
    np.savez("bright.npz", x=255 * rng.random((4, 1, 8, 8), dtype=np.float32), y=np.arange(4))

    class Evil:
        def __reduce__(self):
            return Path.touch, (Path("executed"),)

    torch.save({"1.weight": Evil()}, "evil.pt")
    Path("executed").unlink(missing_ok=True)
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert expected in result.output and "Traceback" not in result.output
    assert not Path("executed").exists()
    assert Path("foreign/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "verb", ["demo", "train digits-plain", "audit x", "report x", "verify x", "list models", "doctor", "data info x"]
)
def test_ctrl_c_ends_every_verb_with_130(run, monkeypatch, verb):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for target in (
        "unmask.data.load_data",
        "unmask.recipes.train",
        "unmask.models.load_model",
        "unmask.ledger.load_run",
        "unmask.report.figures.recorded.load_run",
        "unmask.models.zoo_names",
        "unmask.environment.packages",
    ):
        monkeypatch.setattr(target, interrupt)
    result = run(*verb.split())
    assert result.exit_code == 130, result.output
    assert "again" in result.output


def test_the_demo_names_the_threat_of_every_model(run, monkeypatch):
    monkeypatch.setattr("unmask.cli.demo.RECIPES", ("digits-plain",))
    shown = run("demo", "--run-dir", "demo")
    assert shown.exit_code == 0, shown.output
    assert "Linf(0.2)" in shown.output and "not robust" in shown.output
    again = json.loads(run("demo", "--run-dir", "demo", "--json").stdout)
    assert again["models"][0]["threat"] == "Linf(0.2)" and Path(again["report"]).exists()


@pytest.mark.slow
def test_a_real_interrupt_and_going_on(tmp_path):
    folder = tmp_path / "net"
    command = [sys.executable, "-m", "unmask", "train", "digits-plain", "--epochs", "15", "--run-dir", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not (folder / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130 and "Interrupted" in message and "Traceback" not in message
    assert 1 <= len((folder / "log.jsonl").read_text().splitlines()) < 15
    assert subprocess.run(command, check=False, cwd=tmp_path).returncode == 0
    assert len((folder / "log.jsonl").read_text().splitlines()) == 15


def test_completion_is_offered():
    assert "--install-completion" in [option for parameter in _parameters() for option in parameter.opts]


def _parameters():
    import typer

    return typer.main.get_command(app).params
