"""Does the binarization test pass? The default audit on honest models, the usual PGD on CLP and LSQ.

Every image gets a binary problem that surely has an adversarial example (Zimmermann et al. 2022; see
`unmask.diagnostics.binarization`); an attack that finds fewer than 95% of them cannot be trusted.

    python benchmarks/binarization.py --models ../shared/models --data-dir data
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from attack_cost import third_party

import unmask
from unmask.environment import code_version, hardware, packages
from unmask.models import load_model

SEED, THREAT = 0, unmask.Linf("0.3")
RESULTS = Path(__file__).parent / "results"
CASES = [
    ("mnist-plain", "standard"),
    ("mnist-at", "standard"),
    ("mnist_trades", "standard"),
    ("mnist-clp", "pgd-40"),
    ("mnist-lsq", "pgd-40"),
    ("mnist-plain", "pgd-40"),
    ("mnist-at", "pgd-40"),
]


def measure(name: str, attack: str, models: Path, data: unmask.DataSet) -> dict:
    """Run the test of one attack on one model; returns its row."""
    model = load_model(name).model if name.startswith("mnist-") else third_party(name, models)
    begun = time.monotonic()
    (finding,) = unmask.diagnose(
        model, data.pixels(), data.labels, THREAT, studies=["binarization"], images=len(data), attack=attack, seed=SEED
    )
    kept = ("n", "success_rate", "random_success_rate", "inner", "outer", "threshold")
    return {
        "model": name,
        "attack": attack,
        "status": finding.status,
        **{key: finding.evidence[key] for key in kept},
        "evaluations": finding.forwards + finding.backwards,
        "seconds": round(time.monotonic() - begun, 1),
    }


def markdown(about: dict, rows: list[dict]) -> str:
    """Return the result as a page."""
    lines = [
        "# The binarization test",
        "",
        f"{about['n']} MNIST test images, {THREAT}, seed {SEED}; pgd-40 takes steps of 0.01.",
        f"Hardware: {json.dumps(about['hardware'])}. unmask {about['version']}, {json.dumps(about['packages'])}.",
        f"Command: `{about['command']}`.",
        "",
        "| model | attack | valid problems | attack finds | random points find | status | evaluations | seconds |",
        "| --- |" + " --- |" * 7,
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['attack']} | {row['n']} | {row['success_rate']:.1%} | "
            f"{row['random_success_rate']:.1%} | {row['status']} | {row['evaluations']:,} | {row['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help="folder of mnist_trades")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("-n", "--images", type=int, default=50, help="how many test images")
    options = parser.parse_args()
    data = unmask.load_data("mnist", "test", data_dir=options.data_dir).first(options.images)
    rows = []
    for name, attack in CASES:
        rows.append(measure(name, attack, options.models, data))
        print(json.dumps(rows[-1]), flush=True)
    about = {
        "n": options.images,
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": f"python benchmarks/binarization.py -n {options.images}",
    }
    (RESULTS / "binarization.json").write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    (RESULTS / "binarization.md").write_text(markdown(about, rows))


if __name__ == "__main__":
    main()
