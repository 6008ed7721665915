"""What one PGD costs: ours, the peers', and the bare passes that no implementation can avoid.

Every row is the same attack (Linf 0.3, 40 steps of 0.01, one uniform start, cross-entropy) on the same MNIST test
images as one batch. 1.00 is the time of 40 bare forward + input-gradient passes and one forward. Rows take turns within
a repetition and each is divided by the bare passes of its own repetition; figures are medians over the repetitions.
What an attack returns is predicted again here. Ours and the others live in two processes, since ours tells the C
library to keep freed memory, from which the others would profit.

Ours runs the model's passes in another layout (`fast_passes`), by slices, and drops broken images at once; with
`half_precision` it takes gradients in bf16 and judges breaks in fp32. `climb` is the same ascent for training, which
neither slices nor drops: over bare passes in that layout it shows the engine's overhead. The peers get all images at
once; one of them gets slices as well. ART (adversarial-robustness-toolbox) runs where it is installed; it is no
dependency of this package. On processors without bf16 units the bf16 row is slower than the others.

    python benchmarks/pgd_speed.py --data-dir ../shared/data
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import foolbox
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

import unmask
from unmask.attacks import half_precision, pgd
from unmask.attacks.ascent import SLICE, climb
from unmask.attacks.fast_passes import fast_passes
from unmask.attacks.problem import pose
from unmask.attacks.start import uniform
from unmask.attacks.stepper import fixed
from unmask.environment import code_version, hardware, packages
from unmask.models import load_model
from unmask.streams import Streams

MODELS = ("mnist-at", "mnist-clp")
THREAT, STEPS, STEP_SIZE, SEED = unmask.Linf("0.3"), 40, 0.01, 0
RESULTS = Path(__file__).parent / "results"
BARE, FAST, OURS, CLIMB = "bare passes", "bare passes, layout", "unmask.attacks.pgd", "climb"
HALF = "unmask.attacks.pgd, bf16"
MINE = (FAST, OURS, HALF, CLIMB)
PEERS = {"torchattacks": "torchattacks", "Foolbox": "foolbox", "ART": "adversarial-robustness-toolbox"}

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def bare(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Make the passes of the attack and nothing else; returns the clean images."""
    for _ in range(STEPS):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with torch.no_grad():
        model(x)
    return x


def ours(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run the attack as a user does."""
    streams = Streams.derive(SEED, range(len(x)))
    return pgd(model, x, y, threat=THREAT, steps=STEPS, step_size=STEP_SIZE, generator=streams).x_adv


def climbing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Make as many passes as the bare ones: no image is dropped, and the last iterate is judged."""
    problem = pose(model, x, y, threat=THREAT, generator=Streams.derive(SEED, range(len(x))))
    x_adv = climb(problem, start=uniform(), stepper=fixed(STEP_SIZE), steps=STEPS)
    problem.forward(x_adv, graph=False)
    return x_adv


def torchattacks_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run torchattacks, which judges nothing: one forward less than the bare passes."""
    return torchattacks.PGD(model, eps=THREAT.eps, alpha=STEP_SIZE, steps=STEPS, random_start=True)(x, y)


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run Foolbox, which judges the last iterate."""
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=THREAT.eps)[1]


def art_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Run ART, which judges its start and its last iterate."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=THREAT.eps, eps_step=STEP_SIZE, max_iter=STEPS, num_random_init=1, batch_size=len(x),
        verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def contenders(model: nn.Module) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return every row's attack on the model, the bare passes first."""
    attacks: dict[str, Attack] = {BARE: bare, OURS: ours, CLIMB: climbing}
    attacks[HALF] = lambda model, x, y: ours(half_precision(model), x, y)
    attacks |= {"torchattacks": torchattacks_pgd, "Foolbox": foolbox_pgd}
    if importlib.util.find_spec("art"):
        attacks["ART"] = art_pgd
    rows: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        name: lambda x, y, attack=attack: attack(model, x, y) for name, attack in attacks.items()
    }
    return rows | {
        FAST: lambda x, y: bare(fast_passes(model, x), x, y),
        f"torchattacks, by {SLICE}": lambda x, y: torch.cat(
            [torchattacks_pgd(model, *part) for part in zip(x.split(SLICE), y.split(SLICE), strict=True)]
        ),
    }


@torch.no_grad()
def robust_accuracy(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor) -> float:
    """Predict what an attack returned; what lies outside of the threat counts as no attack."""
    inside = THREAT.contains(x_adv, x).view(-1, 1, 1, 1)
    return (model(torch.where(inside, x_adv, x)).argmax(1) == y).double().mean().item()


def timed(name: str, row: str, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Run one contender once, in a process of its kind; returns seconds and robust accuracy."""
    model = load_model(name).model
    assert isinstance(model, nn.Module)
    model.eval().requires_grad_(False)
    torch.manual_seed(SEED)
    attack = contenders(model)[row]
    begun = time.perf_counter()
    x_adv = attack(x, y)
    return time.perf_counter() - begun, robust_accuracy(model, x_adv, x, y)


def measure(name: str, x: Tensor, y: Tensor, repetitions: int, rows: list[str]) -> list[dict]:
    """Time every contender in turn on one model, after a turn that does not count; returns a row per contender."""
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    accuracy: dict[str, float] = {}
    with ProcessPoolExecutor(1, get_context("spawn")) as here, ProcessPoolExecutor(1, get_context("spawn")) as there:
        for repetition in range(repetitions + 1):
            for row in rows:
                took, accuracy[row] = (here if row in MINE else there).submit(timed, name, row, x, y).result()
                if repetition:
                    seconds[row].append(took)

    def ratios(row: str, to: str) -> list[float]:
        return [mine / other for mine, other in zip(seconds[row], seconds[to], strict=True)]

    fastest = min(PEERS.keys() & set(rows), key=lambda row: statistics.median(ratios(row, BARE)))
    return [
        {
            "model": name,
            "attack": row,
            "robust_accuracy": accuracy[row],
            "seconds": statistics.median(seconds[row]),
            "to_bare_passes": statistics.median(ratios(row, BARE)),
            "least_and_most": [min(ratios(row, BARE)), max(ratios(row, BARE))],
            "to_fastest_peer": statistics.median(ratios(row, fastest)),
            "fastest_peer": fastest,
        }
        for row in rows
    ]


def markdown(settings: dict, rows: list[dict]) -> str:
    """Return the result as a page."""
    absent = "" if "ART" in settings["peers"] else " ART is not installed here, so it has no row."
    lines = [
        "# The time of one PGD",
        "",
        f"First {settings['n']:,} MNIST test images as one batch, {settings['threat']}, {STEPS} steps of {STEP_SIZE},",
        f"one random start, seed {SEED}, threads: {settings['threads']}.",
        f"Medians of {settings['repetitions']} interleaved repetitions, in brackets the least and the most.",
        f"1.00 is {STEPS} bare forward + input-gradient passes and one forward; `{FAST}` are the same passes",
        f"in the layout in which attacks run them. `{CLIMB}` neither slices nor drops: what it takes more than",
        f"`{FAST}` is the engine's overhead. Robust accuracy is of what each returned, predicted again.",
        f"bf16: gradients alone, every break is judged in fp32.{absent}",
        "",
        f"Peers: {json.dumps(settings['peers'])}. Hardware: {json.dumps(settings['hardware'])}.",
        f"unmask {settings['version']}, {json.dumps(settings['packages'])}. Command: `{settings['command']}`.",
        "",
        "| model | attack | robust accuracy | seconds | to bare passes | to the fastest peer |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        least, most = row["least_and_most"]
        accuracy = "-" if row["attack"] in (BARE, FAST) else f"{row['robust_accuracy']:.1%}"
        lines.append(
            f"| {row['model']} | {row['attack']} | {accuracy} | {row['seconds']:.3f} | {row['to_bare_passes']:.2f} "
            f"({least:.2f} to {most:.2f}) | {row['to_fastest_peer']:.2f} ({row['fastest_peer']}) |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure the models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("-n", "--images", type=int, default=1000, help="how many test images")
    parser.add_argument("--repetitions", type=int, default=11, help="how often each is timed")
    parser.add_argument("--only", choices=MODELS, nargs="+", default=list(MODELS), help="which models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    data = unmask.load_data("mnist", "test", data_dir=options.data_dir).first(options.images)
    x, y = data.pixels(), data.labels
    names = [*contenders(load_model(MODELS[0]).model)]
    rows = [row for name in options.only for row in measure(name, x, y, options.repetitions, names)]
    settings = {
        "n": len(x),
        "seed": SEED,
        "threat": str(THREAT),
        "steps": STEPS,
        "step_size": STEP_SIZE,
        "repetitions": options.repetitions,
        "threads": torch.get_num_threads(),
        "peers": {peer: version(PEERS[peer]) for peer in PEERS if any(row["attack"] == peer for row in rows)},
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": f"python benchmarks/pgd_speed.py -n {len(x)} --repetitions {options.repetitions}",
        "rows": rows,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "pgd_speed.json").write_text(json.dumps(settings, indent=2) + "\n")
    (options.results / "pgd_speed.md").write_text(markdown(settings, rows))
    print(markdown(settings, rows))


if __name__ == "__main__":
    main()
