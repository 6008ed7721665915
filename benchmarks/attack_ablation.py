"""What each part of the adaptive schedule buys: the default audit with one part left out, per model.

python benchmarks/attack_ablation.py --models ../shared/models --data-dir ../shared/data [MODEL ...]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from attack_cost import BATCH, CASES, RESULTS, SEED, subject

import unmask
from unmask.audit import Plan, make_plan
from unmask.audit.schedule import Adaptive
from unmask.environment import code_version, hardware, packages

IMAGES = 200
MODELS = ("mnist-clp", "mnist-lsq", "mnist_rsl18a", "cifar10_resnet2b, 8/255")


def variants(threat: unmask.ThreatModel, classes: int) -> dict[str, Plan]:
    """Return the default plan and the default plan less one part."""
    whole = make_plan("standard", threat, classes, None, SEED)
    schedule = whole.schedule
    assert isinstance(schedule, Adaptive)

    def without(*names: str) -> Plan:
        attacks = tuple(attack for attack in whole.attacks if attack.name not in names)
        return Plan(attacks, replace(schedule, plan=attacks), "ablation")

    def changed(**settings: object) -> Plan:
        return Plan(whole.attacks, replace(schedule, **settings), "ablation")

    return {
        "everything": whole,
        "no smoothed gradients": without("smoothed"),
        "no polishing of the best point": without("polish"),
        "no walk along the boundary": without("boundary"),
        "no perturbations of neighbours": without("neighbours"),
        "no random search": without("square", "coarse-to-fine"),
        "no targets": without("targeted"),
        "no pilot: open on the margin": changed(openers=("margin",)),
        "no book": changed(book=()),
        "no bandit: the book alone": changed(least_rate=1.0),
    }


def main() -> None:
    """Measure the chosen models, four by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", default=MODELS, help="which models")
    parser.add_argument(
        "--models", type=Path, default=Path("../shared/models"), help="folder of the third-party models"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="where the images are")
    options = parser.parse_args()
    path = RESULTS / "attack_ablation.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name in options.names:
        case = CASES[name]._replace(n=IMAGES)
        model, x, y = subject(name, case, options.models, options.data_dir)
        threat = unmask.Linf(case.eps)
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        rows[name] = {
            "n": len(x),
            "eps": case.eps,
            "seed": SEED,
            "hardware": hardware(),
            "packages": packages(),
            "version": code_version(),
            "variants": {},
        }
        for variant, plan in variants(threat, classes).items():
            result = unmask.audit(model, x, y, threat, budget=plan, claim=None, diagnostics=False, batch_size=BATCH)
            found = {
                "robust_accuracy": result.robust_accuracy,
                "evaluations": (result.forwards + result.backwards) / len(x),
            }
            rows[name]["variants"][variant] = found
            print(name, variant, found, flush=True)
        path.write_text(json.dumps(rows, indent=2) + "\n")
        (RESULTS / "attack_ablation.md").write_text(table(rows))


def table(rows: dict[str, dict]) -> str:
    """Return robust accuracy at evaluations per image, a line per variant, as Markdown."""
    names = list(next(iter(rows.values()))["variants"])
    lines = [
        "# What each part of the schedule buys",
        "",
        f"Robust accuracy at evaluations per image; first {IMAGES} test images, seed {SEED}, without checks.",
        "",
        "| | " + " | ".join(rows) + " |",
        "| --- |" + " --- |" * len(rows),
    ]
    for name in names:
        cells = (row["variants"][name] for row in rows.values())
        lines.append(
            f"| {name} | " + " | ".join(f"{c['robust_accuracy']:.1%} at {c['evaluations']:.0f}" for c in cells) + " |"
        )
    first = next(iter(rows.values()))
    lines += ["", f"{first['hardware']}", "", "`python benchmarks/attack_ablation.py --models DIR --data-dir DIR`"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
