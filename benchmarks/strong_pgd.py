"""What the usual strong attack costs, PGD of 200 steps and 100 restarts, beside the default audit on the same images.

Mosbach et al. 2018 needed such attacks to break CLP and LSQ, and asked for cheaper ones. PGD is ours (cross-entropy, a
random start per restart, steps of 50/255 as in their strongest attack) and drops an image as soon as it is broken, so
its evaluations are fewer than the nominal 2 x 200 x 100 of an attack that does not; both ratios are printed. The audit
is the one of `attack_cost.py`, checks included; a second one, without checks, has a hundredth of PGD's evaluations.
Results: `benchmarks/results/strong_pgd.json` and `.md`.

    python benchmarks/strong_pgd.py --data-dir ../shared/data
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from attack_cost import BATCH, CASES, RESULTS, SEED, audited, subject
from torch import Tensor, nn

import unmask
from unmask.attacks import pgd
from unmask.audit.counting import Counting
from unmask.environment import code_version, hardware, packages
from unmask.streams import Streams

STEPS, RESTARTS, STEP_SIZES = 200, 100, (50 / 255,)
MODELS, IMAGES = ("mnist-clp", "mnist-lsq"), 200


def strong(model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel, step_size: float) -> dict:
    """Run PGD with all its restarts; broken images are predicted again."""
    counting, begun, standing = Counting(model), time.monotonic(), torch.zeros(len(x), dtype=torch.bool)
    for first in range(0, len(x), BATCH):
        part = slice(first, first + BATCH)
        streams = Streams.derive(SEED, range(len(x))[part], "strong-pgd")
        found = pgd(
            counting,
            x[part],
            y[part],
            threat=threat,
            steps=STEPS,
            step_size=step_size,
            restarts=RESTARTS,
            generator=streams,
        )
        with torch.no_grad():
            broken = (model(found.x_adv).argmax(1) != y[part]) & threat.contains(found.x_adv, x[part])
            standing[part] = ~broken & (model(x[part]).argmax(1) == y[part])
    return {
        "step_size": step_size,
        "robust_accuracy": standing.double().mean().item(),
        "evaluations": (counting.forwards + counting.backwards) / len(x),
        "nominal_evaluations": 2 * STEPS * RESTARTS,
        "seconds": time.monotonic() - begun,
    }


def at_a_hundredth(model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel, evaluations: float) -> dict:
    """Run the audit with a hundredth of these evaluations per image."""
    counting = Counting(model).eval()
    result = unmask.audit(
        counting,
        x,
        y,
        threat,
        budget=int(evaluations / 100),
        claim=None,
        seed=SEED,
        batch_size=BATCH,
        diagnostics=False,
    )
    spent = (counting.forwards + counting.backwards) / len(x)
    return {"robust_accuracy": result.robust_accuracy, "evaluations": spent}


def table(rows: dict[str, dict]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        f"# PGD, {STEPS} steps x {RESTARTS} restarts, against the default audit",
        "",
        "| model | n | step size | PGD: robust | evaluations (nominal) | audit: robust | evaluations (checks) "
        "| 1 / (nominal) | audit at a hundredth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        ours = row["audit"]
        for attack in row["pgd"]:
            ratios = [attack[cost] / ours["evaluations"] for cost in ("evaluations", "nominal_evaluations")]
            lines.append(
                f"| {name} | {row['n']} | {attack['step_size']:.3f} | {attack['robust_accuracy']:.1%} | "
                f"{attack['evaluations']:.0f} ({attack['nominal_evaluations']}) | {ours['robust_accuracy']:.1%} | "
                f"{ours['evaluations']:.0f} ({ours['of_which_checks']:.0f}) | {ratios[0]:.0f} ({ratios[1]:.0f}) | "
                f"{attack['hundredth']['robust_accuracy']:.1%} at {attack['hundredth']['evaluations']:.0f} |"
            )
    first = next(iter(rows.values()))
    lines += ["", f"Seed {SEED}, claim=None, {first['hardware']}.", f"`{first['command']}`"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure both models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="where the images are")
    options = parser.parse_args()
    rows = {}
    for name in MODELS:
        case = CASES[name]._replace(n=IMAGES)
        model, x, y = subject(name, case, Path(), options.data_dir)
        threat = unmask.Linf(case.eps)
        attacks = [strong(model, x, y, threat, step_size) for step_size in STEP_SIZES]
        for attack in attacks:
            attack["hundredth"] = at_a_hundredth(model, x, y, threat, attack["evaluations"])
        rows[name] = {
            "n": len(x),
            "eps": case.eps,
            "seed": SEED,
            "audit": audited(model, x, y, threat),
            "pgd": attacks,
            "threads": torch.get_num_threads(),
            "hardware": hardware(),
            "packages": packages(),
            "version": code_version(),
            "command": "python benchmarks/strong_pgd.py --data-dir DIR",
        }
        print(name, json.dumps({key: rows[name][key] for key in ("n", "audit", "pgd")}), flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "strong_pgd.json").write_text(json.dumps(rows, indent=2) + "\n")
        (RESULTS / "strong_pgd.md").write_text(table(rows))


if __name__ == "__main__":
    main()
