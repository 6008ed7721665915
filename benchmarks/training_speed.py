"""How fast adversarial training is, and what cheap penalties cost.

1. PGD-40 adversarial training of the 3x3 LeNet on MNIST, batch 256: `unmask.training.fit`, in fp32 and with the
   attack (or all) in bf16, against a plain PyTorch loop around torchattacks' PGD. Steps take turns; the contenders live
   in processes of their own, since ours tells the C library to keep freed memory. Images per second are medians.
2. One step of CLP, LSQ and label smoothing against one of plain training, in turns within one process; CPU time.
3. With `--accuracy`: robust accuracy after two epochs of PGD-40 training, fp32 against bf16 attack (an hour).

    python benchmarks/training_speed.py --data-dir ../shared/data [--accuracy]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
import torchattacks
from torch import nn

import unmask
from unmask.attacks import pgd
from unmask.data import DataSet
from unmask.environment import code_version, hardware, packages
from unmask.models import build
from unmask.streams import Streams, derive_generator
from unmask.training import (
    Objective,
    Optimizer,
    PgdAdversary,
    Progress,
    Training,
    adversarial_training,
    clp,
    fit,
    label_smoothing,
    lsq,
    plain,
)

RESULTS = Path(__file__).parent / "results"
THREAT, STEPS, STEP_SIZE, BATCH, SEED = unmask.Linf("0.3"), 40, 0.01, 256, 0
ADVERSARY = PgdAdversary(THREAT, STEPS, STEP_SIZE)
THEIRS = "plain loop, torchattacks"
TRAININGS = {
    "unmask, fp32": Training(adversarial_training(ADVERSARY), Optimizer("adam", 1e-3), epochs=1),
    "unmask, bf16 attack": Training(
        adversarial_training(replace(ADVERSARY, precision="bfloat16")), Optimizer("adam", 1e-3), epochs=1
    ),
    "unmask, bf16 throughout": Training(
        adversarial_training(replace(ADVERSARY, precision="bfloat16")),
        Optimizer("adam", 1e-3),
        epochs=1,
        precision="bfloat16",
    ),
}
CHEAP: dict[str, Callable[[], Objective]] = {
    "plain": plain,
    "CLP": clp,
    "LSQ": lsq,
    "label smoothing": lambda: label_smoothing(0.1),
}


def network() -> nn.Module:
    """Return the 3x3 LeNet with its initial weights."""
    return build("lenet", generator=derive_generator(SEED, "weights"))


def plain_loop(data: DataSet) -> float:
    """Train as a user would write it, on as many steps as the data hold; returns images per second."""
    torch.manual_seed(SEED)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    attack = torchattacks.PGD(model, eps=THREAT.eps, alpha=STEP_SIZE, steps=STEPS)
    begun = time.perf_counter()
    for index in torch.randperm(len(data)).split(BATCH):
        batch = data.select(index)
        x, y = batch.pixels(), batch.labels
        model.eval()
        x_adv = attack(x, y)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        optimizer.step()
    return len(data) / (time.perf_counter() - begun)


def one_turn(name: str, data: DataSet) -> float:
    """Run one contender on the data once; returns images per second."""
    if name == THEIRS:
        return plain_loop(data)
    begun = time.perf_counter()
    fit(network(), data, TRAININGS[name], seed=SEED)
    return len(data) / (time.perf_counter() - begun)


def speeds(data: DataSet, repetitions: int) -> dict[str, dict]:
    """Let the contenders take turns, after one that does not count; images per second and their ratio to the loop's."""
    found: dict[str, list[float]] = {name: [] for name in (THEIRS, *TRAININGS)}
    pools = {name: ProcessPoolExecutor(1, get_context("spawn")) for name in (THEIRS, "ours")}
    try:
        for repetition in range(repetitions + 1):
            for name, rates in found.items():
                rate = pools[THEIRS if name == THEIRS else "ours"].submit(one_turn, name, data).result()
                if repetition:
                    rates.append(rate)
    finally:
        for pool in pools.values():
            pool.shutdown()
    ratios = {
        name: [mine / theirs for mine, theirs in zip(rates, found[THEIRS], strict=True)]
        for name, rates in found.items()
    }
    return {
        name: {
            "images_per_second": statistics.median(rates),
            "to_plain_loop": statistics.median(ratios[name]),
            "least_and_most": [min(ratios[name]), max(ratios[name])],
        }
        for name, rates in found.items()
    }


def penalty_costs(data: DataSet, repetitions: int) -> dict[str, dict]:
    """Return every cheap defence's CPU time per step, as a share of plain training's in the same turn."""
    found: dict[str, list[float]] = {name: [] for name in CHEAP}
    for repetition in range(repetitions + 1):
        for name, objective in _turned(CHEAP, repetition):
            training = Training(objective(), Optimizer("adam", 1e-3), epochs=1, batch_size=BATCH)
            model, begun = network(), time.process_time()
            fit(model, data, training, seed=SEED)
            if repetition:
                found[name].append(time.process_time() - begun)
    ratios = {
        name: [one / base for one, base in zip(times, found["plain"], strict=True)] for name, times in found.items()
    }
    return {
        name: {"to_plain": statistics.median(values), "least_and_most": [min(values), max(values)]}
        for name, values in ratios.items()
    }


def _turned(rows: dict[str, Callable[[], Objective]], turn: int) -> Iterator[tuple[str, Callable[[], Objective]]]:
    names = [*rows]
    turn %= len(names)
    return ((name, rows[name]) for name in (*names[turn:], *names[:turn]))


def accuracy_after_two_epochs(train: DataSet, test: DataSet) -> dict[str, dict]:
    """Train twice as long in fp32 and with the attack in bf16; clean and PGD-40 accuracy on the test images."""
    rows = {}
    x, y = test.pixels(), test.labels
    for name in ("unmask, bf16 attack", "unmask, fp32"):
        begun = time.monotonic()
        lines: list[dict] = []

        def watch(now: Progress) -> None:
            if now.step % 50 == 0:
                print(now.step, now.losses, flush=True)

        model = fit(network(), train, replace(TRAININGS[name], epochs=2), seed=SEED, log=lines.append, watch=watch)
        found = pgd(
            model, x, y, threat=THREAT, steps=STEPS, step_size=STEP_SIZE, generator=Streams.derive(1, range(len(x)))
        )
        with torch.no_grad():
            clean = (model(x).argmax(1) == y).double().mean().item()
        robust = (model(found.x_adv).argmax(1) == y).double().mean().item()
        rows[name] = {
            "clean_accuracy": clean,
            "robust_accuracy": robust,
            "seconds": time.monotonic() - begun,
            "attack_share": [line["attack_share"] for line in lines],
        }
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def markdown(record: dict) -> str:
    """Return the result as a page."""
    about = record["about"]
    lines = ["# Training speed", ""]
    if "speed" in record:
        lines += [
            f"PGD-{STEPS} adversarial training of the 3x3 LeNet on MNIST, batch {BATCH}, {about['images']} images a",
            f"turn, medians of {about['repetitions']} turns.",
            "",
            "| loop | images per second | to the plain loop |",
            "| --- | --- | --- |",
        ]
        for name, row in record["speed"].items():
            least, most = row["least_and_most"]
            lines.append(
                f"| {name} | {row['images_per_second']:.1f} | {row['to_plain_loop']:.2f} ({least:.2f} to {most:.2f}) |"
            )
        lines += ["", "| defence | CPU time of a step, to plain training |", "| --- | --- |"]
        for name, row in record["penalties"].items():
            least, most = row["least_and_most"]
            lines.append(f"| {name} | {row['to_plain']:.3f} ({least:.3f} to {most:.3f}) |")
    if "accuracy" in record:
        lines += [
            "",
            f"After two epochs on {about['accuracy_images']:,} images, on the first {about['accuracy_test_images']:,}",
            "test images:",
            "",
            "| training | clean | robust, PGD-40 | seconds |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in record["accuracy"].items():
            lines.append(
                f"| {name} | {row['clean_accuracy']:.1%} | {row['robust_accuracy']:.1%} | {row['seconds']:.0f} |"
            )
    lines += [
        "",
        "No row for a CUDA GPU: none was at hand.",
        "",
        f"Seed {SEED}, threads {about['threads']}, torchattacks {about['torchattacks']}.",
        json.dumps(about["hardware"]),
        f"unmask {about['version']}, {json.dumps(about['packages'])}. Command: `{about['command']}`.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure what was asked for; other parts of an earlier result are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("--images", type=int, default=4 * BATCH, help="training images of one turn")
    parser.add_argument("--repetitions", type=int, default=5, help="turns that count")
    parser.add_argument("--accuracy", action="store_true", help="train two epochs in both precisions instead")
    parser.add_argument("--accuracy-images", type=int, default=60_000, help="training images of these epochs")
    options = parser.parse_args()
    train = unmask.load_data("mnist", "train", data_dir=options.data_dir)
    path = RESULTS / "training_speed.json"
    record = json.loads(path.read_text()) if path.exists() else {"about": {}}
    if options.accuracy:
        test = unmask.load_data("mnist", "test", data_dir=options.data_dir).first(1000)
        used = train.first(options.accuracy_images)
        record["accuracy"] = accuracy_after_two_epochs(used, test)
        record["about"] |= {"accuracy_images": len(used), "accuracy_test_images": len(test)}
    else:
        record["speed"] = speeds(train.first(options.images), options.repetitions)
        record["penalties"] = penalty_costs(train.first(20 * BATCH), 2 * options.repetitions + 1)
        record["about"] |= {"images": options.images, "repetitions": options.repetitions}
    record["about"] |= {
        "threads": torch.get_num_threads(),
        "torchattacks": version("torchattacks"),
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": "python benchmarks/training_speed.py --data-dir DIR [--accuracy]",
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / "training_speed.md").write_text(markdown(record))
    print(markdown(record))


if __name__ == "__main__":
    main()
