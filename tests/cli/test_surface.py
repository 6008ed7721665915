"""The words of the command line are an interface: a change here must be meant."""

from __future__ import annotations

import inspect
import os
import sys

import pytest
import typer

from unmask.cli.app import app, main

SURFACE = {
    "audit": "model --weights --data --split --n --sample --eps --norm --budget --access --claim --seed --run-dir "
    "--batch-size --data-dir --download --device --fail-under --junit --json",
    "bench-attack": "attack --set --n --models --data --eps --norm --seed --reference --save-reference --measure "
    "--run-dir --data-dir --download --device --json",
    "data info": "name --split --data-dir --download --json",
    "data prepare": "name archive --data-dir",
    "demo": "--run-dir --seed --json",
    "diagnose": "model studies --weights --data --split --n --sample --eps --norm --grid --restarts --points "
    "--directions --images --attack --seed --run-dir --batch-size --data-dir --download --device --format --json",
    "doctor": "--data-dir --json",
    "figure": "kind runs --format --columns --output --name --image --json",
    "list": "kind --data-dir --json",
    "reproduce": "names --scale --seed --root --data-dir --device --workers --modern --data --plan --module --json",
    "report": "runs --output --json",
    "train": "recipe --set --data --model --epochs --batch-size --seed --run-dir --data-dir --download --device --log "
    "--tensorboard --dry-run --json",
    "verify": "run --model --weights --json",
}


def _commands(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_verbs_are_frozen():
    assert sorted(COMMANDS) == sorted(SURFACE)


@pytest.mark.parametrize("name", SURFACE)
def test_options_are_frozen(name):
    found = [
        next((option for option in parameter.opts if option.startswith("--")), parameter.name)
        for parameter in COMMANDS[name].params
        if parameter.name != "help"
    ]
    assert sorted(found) == sorted(SURFACE[name].split())


@pytest.mark.parametrize("name", SURFACE)
def test_every_verb_has_examples(name):
    text = inspect.cleandoc(COMMANDS[name].help or "")
    assert f"unmask {name}" in text and "Example" in text


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(monkeypatch, given, found):
    monkeypatch.setattr(sys, "argv", ["unmask", "--version"])
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit, match="0"):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == found


def test_help_loads_no_torch(run):
    import subprocess

    code = "import sys\nfrom unmask.cli.app import app\nassert 'torch' not in sys.modules, 'torch was loaded'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
