"""AutoAttack's four parts, written anew here, against the reference implementation at equal settings.

APGD-CE, APGD-T, FAB-T and Square each attack the same MNIST test images, ours and `pyautoattack`'s, on two packaged
models and on one whose weights are not part of this package (`exact_robustness.py` says what it is). Every claimed
break of either is judged here: it must lie in ball and box and be misclassified.

    python benchmarks/attack_parity.py --models ../shared/models --data-dir data
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import pyautoattack
import torch
from exact_robustness import network
from torch import Tensor, nn

import unmask
from unmask.attacks import ATTACKS, AttackResult
from unmask.environment import code_version, hardware, packages
from unmask.models import load_model
from unmask.streams import Streams

SEED, STEPS, TARGETS, QUERIES, BATCH = 0, 100, 9, 5000, 250
RESULTS = Path(__file__).parent / "results"
THIRD_PARTY = "mnist_wk17a_mipverify"
CASES = {"mnist-clp": "0.3", "mnist-at": "0.3", THIRD_PARTY: "0.1"}
# The reference's name of each attack, ours, and our settings where they are not the defaults.
PAIRS = {
    "APGD-CE": ("apgd-ce", "apgd", {"steps": STEPS}),
    "APGD-T": ("apgd-t", "targeted_apgd", {"steps": STEPS, "targets": TARGETS}),
    "FAB-T": ("fab-t", "fab", {"steps": STEPS, "targets": TARGETS}),
    "Square": ("square", "square", {"queries": QUERIES}),
}


def subject(name: str, models: Path) -> nn.Module:
    """Return a packaged model, or the third-party one from the folder."""
    return network(models / f"{name}.safetensors") if name == THIRD_PARTY else load_model(name).model


def ours(
    name: str, settings: dict, model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel
) -> tuple[Tensor, dict]:
    """Run our attack by batches; returns the images and the passes per image."""
    results: list[AttackResult] = []
    for first in range(0, len(x), BATCH):
        part = slice(first, first + BATCH)
        streams = Streams.derive(SEED, range(len(x))[part], name)
        results.append(ATTACKS[name](model, x[part], y[part], threat=threat, generator=streams, **settings))
    forwards, backwards = (
        torch.cat([getattr(result, column) for result in results]).double().mean().item()
        for column in ("forwards", "backwards")
    )
    return torch.cat([result.x_adv for result in results]), {"forwards": forwards, "backwards": backwards}


def theirs(name: str, model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel) -> Tensor:
    """Run one part of the reference as its standard evaluation does."""
    reference = pyautoattack.AutoAttack(model, attacks=[name], eps=threat.eps, norm="Linf", seed=SEED, version="custom")
    reference.apgd.n_restarts = reference.fab.n_restarts = 1
    reference.square.n_queries = QUERIES
    x_adv, _ = reference.run_standard_evaluation(x, y, batch_size=BATCH)
    return x_adv


@torch.no_grad()
def survivors(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: unmask.ThreatModel) -> Tensor:
    """Say per image whether it withstood (B,); what lies outside of the threat counts as no attack."""
    inside = threat.contains(x_adv, x)
    return (model(torch.where(inside.view(-1, 1, 1, 1), x_adv, x)).argmax(1) == y) & (model(x).argmax(1) == y)


def measure(name: str, eps: str, models: Path, x: Tensor, y: Tensor, pairs: list[str]) -> list[dict]:
    """Run every pair on one model; returns a row per attack."""
    model, threat, rows = subject(name, models), unmask.Linf(eps), []

    def timed(attack: Callable[[], Tensor]) -> tuple[Tensor, float]:
        begun = time.monotonic()
        alive = survivors(model, attack(), x, y, threat)
        return alive, time.monotonic() - begun

    for pair in pairs:
        reference, own, settings = PAIRS[pair]
        cost: dict = {}

        def run(own: str = own, settings: dict = settings, cost: dict = cost) -> Tensor:
            x_adv, passes = ours(own, settings, model, x, y, threat)
            cost.update(passes)
            return x_adv

        mine, seconds = timed(run)
        other, their_seconds = timed(lambda reference=reference: theirs(reference, model, x, y, threat))
        row = {
            "model": name,
            "threat": str(threat),
            "attack": pair,
            "robust_accuracy": mine.double().mean().item(),
            "reference": other.double().mean().item(),
            "broken_by_ours_alone": int((other & ~mine).sum()),
            "broken_by_the_reference_alone": int((mine & ~other).sum()),
            **{f"{key}_per_image": round(value, 1) for key, value in cost.items()},
            "seconds": round(seconds, 1),
            "reference_seconds": round(their_seconds, 1),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def markdown(settings: dict, rows: list[dict]) -> str:
    """Return the result as a page."""
    lines = [
        "# AutoAttack's parts against the reference",
        "",
        f"First {settings['n']:,} MNIST test images, seed {SEED}, one run; {STEPS} steps, {TARGETS} targets,",
        f"{QUERIES:,} queries. Each entry is the share of images that one attack alone leaves standing.",
        f"Reference: pyautoattack {settings['reference']}. Hardware: {json.dumps(settings['hardware'])}.",
        f"unmask {settings['version']}, {json.dumps(settings['packages'])}. Command: `{settings['command']}`.",
        "",
        "| model | threat | attack | ours | reference | broken by ours alone | by theirs alone | seconds (theirs) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['threat']} | {row['attack']} | {row['robust_accuracy']:.1%} | "
            f"{row['reference']:.1%} | {row['broken_by_ours_alone']} | {row['broken_by_the_reference_alone']} | "
            f"{row['seconds']:.0f} ({row['reference_seconds']:.0f}) |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure every model and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help=f"folder of {THIRD_PARTY}")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("-n", "--images", type=int, default=1000, help="how many test images")
    parser.add_argument("--only", choices=PAIRS, nargs="+", default=list(PAIRS), help="which attacks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    data = unmask.load_data("mnist", "test", data_dir=options.data_dir).first(options.images)
    x, y = data.pixels(), data.labels
    rows = [row for name, eps in CASES.items() for row in measure(name, eps, options.models, x, y, options.only)]
    settings = {
        "n": len(x),
        "seed": SEED,
        "reference": pyautoattack.__version__,
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": f"python benchmarks/attack_parity.py -n {len(x)}",
        "rows": rows,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "attack_parity.json").write_text(json.dumps(settings, indent=2) + "\n")
    (options.results / "attack_parity.md").write_text(markdown(settings, rows))
    print(markdown(settings, rows))


if __name__ == "__main__":
    main()
