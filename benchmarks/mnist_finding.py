"""The seeds' main finding on MNIST: CLP and LSQ look robust under the usual PGD and are not.

Trains Plain, CLP and LSQ and audits them by the command line on the first 1,000 test images at eps 0.3, then writes
`benchmarks/results/mnist_finding.md` and `.json`. What is already trained or audited in the folder of runs is not done
again.

    python benchmarks/mnist_finding.py --data-dir data --runs runs/mnist-finding
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from unmask.environment import code_version, hardware, packages

RECIPES = ("mnist-plain", "mnist-clp", "mnist-lsq")
IMAGES, SEED = 1000, 0
RESULTS = Path(__file__).parent / "results"


def unmask(*words: object) -> dict:
    """Run one command of the command line and return its JSON."""
    command = [sys.executable, "-m", "unmask", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(recipe: str, runs: Path, data_dir: Path | None) -> dict:
    """Train and audit one recipe; returns its row."""
    data = ("--data-dir", data_dir) if data_dir else ()
    card = unmask("train", recipe, "--seed", SEED, "--run-dir", runs / recipe, *data)
    audit = unmask("audit", runs / recipe, "-n", IMAGES, "--seed", SEED, "--run-dir", runs / f"{recipe}-audit", *data)
    return {
        "model": recipe,
        "objective": card["objective"],
        "training": card["training"],
        "test_accuracy": card["figures"]["clean_accuracy"],
        **{key: audit[key] for key in ("clean_accuracy", "claimed_accuracy", "robust_accuracy", "interval", "n")},
        "verdict": audit["verdict"]["label"],
        "evaluations_per_image": (audit["forwards"] + audit["backwards"]) / audit["n"],
    }


def markdown(rows: list[dict]) -> str:
    """Return the result as a page."""
    lines = [
        "# The seeds' main finding on MNIST",
        "",
        f"First {IMAGES:,} test images, Linf(0.3), seed {SEED}; claimed: PGD, 40 steps of 0.01, one start;",
        "measured: worst case over the standard audit; the cost includes the checks.",
        f"Hardware: {json.dumps(hardware())}. unmask {code_version()}, {json.dumps(packages())}.",
        "Command: `python benchmarks/mnist_finding.py`.",
        "",
        "| model | clean (10,000) | claimed | measured at most | 95% interval | verdict | evaluations per image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['model']} | {row['test_accuracy']:.2%} | {row['claimed_accuracy']:.1%} | "
            f"{row['robust_accuracy']:.1%} | {low:.1%} to {high:.1%} | {row['verdict']} | "
            f"{row['evaluations_per_image']:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure every recipe and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("--runs", type=Path, default=Path("runs/mnist-finding"), help="where models and audits go")
    options = parser.parse_args()
    rows = [measure(recipe, options.runs, options.data_dir) for recipe in RECIPES]
    RESULTS.mkdir(exist_ok=True)
    settings = {"seed": SEED, "hardware": hardware(), "packages": packages(), "version": code_version(), "rows": rows}
    (RESULTS / "mnist_finding.json").write_text(json.dumps(settings, indent=2) + "\n")
    (RESULTS / "mnist_finding.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
