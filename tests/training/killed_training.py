"""Train a little, in processes that are killed at random moments: python killed_training.py FOLDER KILLS SEED.

Not a test: `test_resume.py` runs it. One process imports torch and forks the training again and again, each time
killing it with SIGKILL a random number of steps and milliseconds later, until `KILLS` are dead; the next may finish.
Another training is left alone from the start. It prints, as JSON, the step that each process began at, and writes the
weights to FOLDER/killed/result.safetensors and FOLDER/unbroken/result.safetensors.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from unmask.data import load_data
from unmask.models import build
from unmask.streams import derive_generator
from unmask.threat import Linf
from unmask.training import (
    GaussianNoise,
    Optimizer,
    PgdAdversary,
    Training,
    Validation,
    fit,
    loop,
    mixed_minibatch_pgd,
)

ADVERSARY = PgdAdversary(Linf("0.1"), steps=2, step_size=0.05)
TRAINING = Training(
    mixed_minibatch_pgd(ADVERSARY, 1.0),
    Optimizer("adam", 1e-3),
    epochs=50,
    batch_size=32,
    augmentations=(GaussianNoise(0.1),),
    ema=0.9,
    mixup=0.3,
    validation=Validation(images=20, threat=Linf("0.1"), steps=2),
)


# Made before the forks, so that what they need is imported once.
DATA = load_data("digits", "train").first(80)
MODEL = build("digits-cnn", generator=derive_generator("network"))
TRAINING.optimizer.build(MODEL)


def train(folder: Path, ticks: int) -> None:
    """Train to the end, and write a byte with the step's number after every step."""
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    result = fit(MODEL, DATA, TRAINING, seed=0, run_dir=folder, watch=lambda now: _write(ticks, now.step))
    save_file(result.state_dict(), folder / "result.safetensors")


def _write(ticks: int, step: int) -> None:
    os.write(ticks, bytes([step]))


def forked(folder: Path) -> tuple[int, int]:
    """Start a training in a process of its own; return its id and the end of the pipe that its steps come through."""
    ticks, end = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            train(folder, end)
            status = 0
        finally:
            os._exit(status)
    os.close(end)
    return process, ticks


def run(folder: Path, kills: int, draws: random.Random) -> dict[str, object]:
    """Kill `kills` trainings, let the next one finish, and return where each one began."""
    began = []
    while True:
        process, ticks = forked(folder)
        last = len(began) == kills
        steps = [*os.read(ticks, 1)]
        began.append(steps[0] if steps else None)
        if not last:
            for _ in range(draws.randrange(5)):
                os.read(ticks, 1)
            time.sleep(draws.random() * 0.02)
            os.kill(process, signal.SIGKILL)
        while os.read(ticks, 64):
            pass
        os.close(ticks)
        _, status = os.waitpid(process, 0)
        if last:
            return {"began": began, "status": status}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, kills, draws = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    unbroken, killed = run(where / "unbroken", 0, draws), run(where / "killed", kills, draws)
    print(json.dumps({"unbroken": unbroken, "killed": killed}))
