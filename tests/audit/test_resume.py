"""An audit that was killed, at any moment, ends as the unbroken one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from unmask.errors import LedgerError, OutputError
from unmask.ledger import Run, load_run

SCRIPT = """
import os, signal, sys
import torch, unmask
from unmask.models import build

folder, kill_after = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
data = unmask.load_data("digits", "test").first(90)
model = build("digits-cnn", generator=torch.Generator().manual_seed(1))
seen = 0

def watch(now):
    global seen
    seen += 1
    if seen == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)

unmask.audit(model, data.pixels(), model(data.pixels()).argmax(1), unmask.Linf(0.02), budget="quick", seed=5,
             run_dir=folder, batch_size=32, ids=data.ids, watch=watch)
"""


def _run(folder: Path, kill_after: int) -> int:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(kill_after)], check=False, timeout=300
    ).returncode


def _same(left: Run, right: Run) -> None:
    for name in set(left.events) - {"seconds"}:
        a, b = left.events[name], right.events[name]
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
    for a, b in zip(left.adversarial(), right.adversarial(), strict=True):
        assert np.array_equal(a, b)
    assert left.findings == right.findings
    assert left.result.robust_accuracy == right.result.robust_accuracy


@pytest.mark.slow
def test_killed_and_resumed_equals_unbroken(tmp_path):
    assert _run(tmp_path / "unbroken", 0) == 0
    for kill_after in (1, 5, 9):
        assert _run(tmp_path / "killed", kill_after) == -signal.SIGKILL
        assert not (tmp_path / "killed" / "result.json").exists()
    assert _run(tmp_path / "killed", 0) == 0
    unbroken, killed = load_run(tmp_path / "unbroken"), load_run(tmp_path / "killed")
    assert killed.result is not None and len(set(unbroken.events["round"])) > 4
    _same(unbroken, killed)


def test_a_finished_audit_is_returned_without_attacking(linear, tmp_path):
    model, x, y, _ = linear
    calls = []

    def counted(images):
        calls.append(len(images))
        return model(images)

    first = unmask.audit(counted, x, y, unmask.Linf(0.03), budget="quick", run_dir=tmp_path / "run")
    calls.clear()
    again = unmask.audit(counted, x, y, unmask.Linf(0.03), budget="quick", run_dir=tmp_path / "run")
    assert sum(calls) <= len(x) + 32
    assert torch.equal(first.survived, again.survived) and torch.equal(first.x_adv, again.x_adv)
    assert (first.headline, first.verdict, first.forwards) == (again.headline, again.verdict, again.forwards)
    assert [finding.check for finding in first.findings] == [finding.check for finding in again.findings]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"budget": "standard"}, "schedule"),
        ({"claim": "pgd-20"}, "claim"),
        ({"threat": unmask.Linf(0.04)}, "threat.eps"),
        ({"model": lambda images: images.flatten(1)[:, :4]}, "model.fingerprint"),
    ],
)
def test_a_changed_audit_is_refused_by_name(linear, tmp_path, change, field):
    model, x, y, _ = linear
    given = {
        "model": model,
        "x": x,
        "y": y,
        "threat": unmask.Linf(0.03),
        "budget": "quick",
        "run_dir": tmp_path / "run",
    }
    unmask.audit(**given, diagnostics=False)
    with pytest.raises(LedgerError, match=field):
        unmask.audit(**(given | change), diagnostics=False)


def test_an_unwritable_folder_is_named(linear, tmp_path):
    model, x, y, _ = linear
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        unmask.audit(model, x, y, unmask.Linf(0.03), budget="quick", run_dir=tmp_path / "file" / "run")


def test_an_interruption_keeps_what_was_recorded(linear, tmp_path):
    model, x, y, _ = linear

    def interrupt(now):
        if now.round == 2:
            os.kill(os.getpid(), signal.SIGINT)

    arguments = {"budget": "quick", "run_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        unmask.audit(model, x, y, unmask.Linf(0.03), watch=interrupt, **arguments)
    kept = load_run(tmp_path / "run")
    assert kept.result is None and set(kept.events["round"]) == {0, 1, 2}
    whole = unmask.audit(model, x, y, unmask.Linf(0.03), **arguments)
    fresh = unmask.audit(model, x, y, unmask.Linf(0.03), budget="quick")
    assert torch.equal(whole.survived, fresh.survived) and torch.equal(whole.x_adv, fresh.x_adv)
