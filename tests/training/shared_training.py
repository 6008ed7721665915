"""Train a little in processes that torchrun starts: shared_training.py FOLDER OBJECTIVE [KILL_AT_STEP].

Not a test: `test_sharing.py` runs it. The first process writes the weights to FOLDER/result.safetensors. With
KILL_AT_STEP the last process kills itself there, once.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from unmask.data import load_data
from unmask.distributed import Workers
from unmask.models import build
from unmask.streams import derive_generator
from unmask.threat import Linf
from unmask.training import (
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    Progress,
    Training,
    Validation,
    WeightAdversary,
    fit,
    free_adversarial_training,
    loop,
    mixed_minibatch_pgd,
)
from unmask.training.penalties import clean_logit_pairing

THREAT = Linf("0.1")
PAIRED = mixed_minibatch_pgd(PgdAdversary(THREAT, steps=2, step_size=0.05), 1.0)
OBJECTIVES = {
    "paired": Objective((*PAIRED.terms, clean_logit_pairing(0.5)), PAIRED.adversary),
    "free": free_adversarial_training(THREAT, replays=2),
}


def training(objective: str) -> Training:
    return Training(
        OBJECTIVES[objective],
        Optimizer("sgd", 0.05, {"momentum": 0.9}),
        epochs=3,
        batch_size=32,
        augmentations=(GaussianNoise(0.1),),
        ema=0.9,
        weight_adversary=WeightAdversary(0.01, warmup=1) if objective == "paired" else None,
        validation=Validation(images=32, threat=THREAT, steps=2),
    )


def main(folder: Path, objective: str, kill_at: int) -> None:
    torch.set_num_threads(1)
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    workers, killed = Workers.here(), folder / "killed"

    def watch(now: Progress) -> None:
        if now.step == kill_at and workers.rank == workers.count - 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    model = build("digits-cnn", generator=derive_generator("network"))
    data = load_data("digits", "train").first(96)
    result = fit(model, data, training(objective), seed=0, run_dir=folder, watch=watch)
    if workers.leads:
        save_file(result.state_dict(), folder / "result.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else -1)
