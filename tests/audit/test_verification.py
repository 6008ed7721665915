"""Replaying a run's breaks."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import unmask
from unmask.audit import verify
from unmask.errors import LedgerError
from unmask.ledger import load_run


@pytest.fixture
def run_dir(linear, tmp_path):
    model, x, y, _ = linear
    unmask.audit(model, x, y, unmask.Linf(0.08), budget="quick", run_dir=tmp_path / "run", diagnostics=False)
    return tmp_path / "run"


def test_every_break_is_confirmed(linear, run_dir):
    model, _, _, distance = linear
    replay = verify(load_run(run_dir), model, batch_size=7)
    assert replay.breaks == (distance <= 0.08).sum().item() == len(replay.confirmed) + len(replay.rounding)
    assert not replay.refuted


@pytest.mark.parametrize(
    ("tamper", "words"),
    [(lambda kept, clean: clean, "classifies"), (lambda kept, clean: np.clip(kept + 0.1, 0, 1), "outside")],
)
def test_a_tampered_image_is_refuted(linear, run_dir, tamper, words):
    model, x, _, distance = linear
    stored = load_file(run_dir / "adversarial.safetensors")
    victim = next(i for i, example in enumerate(stored["ids"]) if 0 < distance[example] <= 0.08)
    example = int(stored["ids"][victim])
    stored["x_adv"][victim] = tamper(stored["x_adv"][victim], x[example].numpy())
    save_file(stored, run_dir / "adversarial.safetensors")
    replay = verify(load_run(run_dir), model)
    assert list(replay.refuted) == [example] and words in replay.refuted[example]


def test_another_model_is_refused(run_dir):
    with pytest.raises(LedgerError, match="not the model"):
        verify(load_run(run_dir), lambda images: images.flatten(1)[:, :4])
