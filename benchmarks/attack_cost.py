"""What robust accuracy costs: the default audit against AutoAttack `standard` in the same run, every pass counted.

Both see the same images of the same model, wrapped so that each example's forward and backward pass counts; the audit's
checks count too. The usual attack's figure is left out on both sides (`claim=None`). Rows are written as they come, to
`benchmarks/results/attack_cost.json` and `.md`, and replace earlier rows of the same model. The third-party models and
the data are not part of this package:

    python benchmarks/attack_cost.py --models ../shared/models --data-dir ../shared/data [MODEL ...]

`--audit-only` repeats the audit alone, for a schedule that has changed since, and keeps it beside the row.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import unmask
from unmask.audit.counting import Counting
from unmask.environment import code_version, hardware, packages
from unmask.models import load_model

SEED, BATCH = 0, 256
RESULTS = Path(__file__).parent / "results"


class Case(NamedTuple):
    """A model, how many images, eps, and where model and images come from."""

    n: int
    eps: str
    data: str = "mnist"
    packaged: bool = False
    weights: str = ""


CASES = {
    "mnist-clp": Case(1000, "0.3", packaged=True),
    "mnist-lsq": Case(1000, "0.3", packaged=True),
    "mnist-ls": Case(1000, "0.3", packaged=True),
    "mnist-alp": Case(200, "0.3", packaged=True),
    "mnist-at": Case(200, "0.3", packaged=True),
    "mnist_rsl18a": Case(200, "0.1"),
    "cifar10_resnet2b, 8/255": Case(1000, "8/255", "cifar10", weights="cifar10_resnet2b"),
    "cifar10_resnet2b, 2/255": Case(200, "2/255", "cifar10", weights="cifar10_resnet2b"),
    "mnist_wk17a_mipverify": Case(200, "0.1"),
    "mnist_trades": Case(200, "0.3"),
    "mnist_binary_cnn": Case(100, "0.3"),
}


def third_party(name: str, models: Path) -> nn.Module:
    """Return a model of the folder's own loader."""
    spec = importlib.util.spec_from_file_location("zoo", models / "zoo.py")
    assert spec is not None and spec.loader is not None
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    return zoo.load(name)


def subject(name: str, case: Case, models: Path, data_dir: Path | None) -> tuple[nn.Module, Tensor, Tensor]:
    """Return model, images and labels."""
    model = load_model(name).model if case.packaged else third_party(case.weights or name, models)
    assert isinstance(model, nn.Module)
    model.eval()
    return model, *images(case.data, case.n, data_dir)


def images(data: str, n: int, data_dir: Path | None) -> tuple[Tensor, Tensor]:
    """Return the first test images and labels; CIFAR-10's from its lossless subset."""
    if data != "cifar10":
        test = unmask.load_data(data, "test", data_dir=data_dir).first(n)
        return test.pixels(), test.labels
    assert data_dir is not None, "CIFAR-10 images are read from --data-dir"
    with np.load(data_dir / "cifar10" / "cifar10_lossless_subset.npz") as arrays:
        x = torch.from_numpy(arrays["x_test"][:n]).permute(0, 3, 1, 2).float().div(255).contiguous()
        return x, torch.from_numpy(arrays["y_test"][:n]).long()


class ZeroGradient(nn.Module):
    """A model without gradients, said to have gradient zero: the reference raises where there is none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's own logits."""
        return self.model(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def audited(model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel) -> dict:
    """Run the default audit."""
    counting, begun = Counting(model).eval(), time.monotonic()
    result = unmask.audit(counting, x, y, threat, claim=None, seed=SEED, batch_size=BATCH)
    checks = sum(finding.forwards + finding.backwards for finding in result.findings)
    return {
        "robust_accuracy": result.robust_accuracy,
        "evaluations": (counting.forwards + counting.backwards) / len(x),
        "of_which_checks": checks / len(x),
        "seconds": time.monotonic() - begun,
        "verdict": result.verdict.label,
        "warnings": [finding.check for finding in result.findings if finding.status in ("warn", "fail")],
    }


def auto_attacked(model: nn.Module, x: Tensor, y: Tensor, threat: unmask.ThreatModel) -> dict:
    """Run AutoAttack `standard`; what it returns is predicted again."""
    from pyautoattack import AutoAttack

    with torch.enable_grad():
        differentiable = model(x[:1].clone().requires_grad_()).requires_grad
    counting, begun = Counting(model if differentiable else ZeroGradient(model)), time.monotonic()
    attack = AutoAttack(counting, norm="Linf", eps=threat.eps, version="standard", seed=SEED, device="cpu")
    found = attack.run_standard_evaluation(x, y, batch_size=BATCH)
    x_adv = found[0] if isinstance(found, tuple) else found
    seconds = time.monotonic() - begun
    with torch.no_grad():
        broken = (model(x_adv).argmax(1) != y) & threat.contains(x_adv, x)
        broken |= model(x).argmax(1) != y
    return {
        "robust_accuracy": 1 - broken.double().mean().item(),
        "evaluations": (counting.forwards + counting.backwards) / len(x),
        "seconds": seconds,
        "gradients": "exact" if differentiable else "none, given as zero",
    }


def table(rows: dict[str, dict]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "# The default audit against AutoAttack `standard`",
        "",
        "| model | n | eps | audit: robust | evaluations per image (checks) | AutoAttack: robust | evaluations "
        "| 1 / | time ratio | verdict | audit again |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in [*CASES, *(row for row in rows if row not in CASES)]:
        if name in rows:
            row = rows[name]
            ours, theirs, again = row["audit"], row["autoattack"], row.get("audit_again")
            repeated = f"{again['robust_accuracy']:.1%} at {again['evaluations']:.0f}" if again else ""
            lines.append(
                f"| {name} | {row['n']} | {row['eps']} | {ours['robust_accuracy']:.1%} | {ours['evaluations']:.0f} "
                f"({ours['of_which_checks']:.0f}) | {theirs['robust_accuracy']:.1%} | {theirs['evaluations']:.0f} | "
                f"{theirs['evaluations'] / ours['evaluations']:.1f} | {ours['seconds'] / theirs['seconds']:.2f} | "
                f"{ours['verdict']} | {repeated} |"
            )
    first = next(iter(rows.values()))
    lines += ["", "*Again*: the audit alone, by the schedule as it has become since (`--audit-only`).", ""]
    lines += [f"Seed {SEED}, claim=None, {first['hardware']}.", "`python benchmarks/attack_cost.py --models DIR`"]
    return "\n".join(lines) + "\n"


def store(name: str, row: dict) -> None:
    """Write one row among those that are there; several processes may do so."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "attack_cost.json"
    with (RESULTS / ".attack_cost.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows[name] = row
        path.write_text(json.dumps(rows, indent=2) + "\n")
        (RESULTS / "attack_cost.md").write_text(table(rows))


def main() -> None:
    """Measure the chosen models, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help="which models; default: all")
    parser.add_argument(
        "--models", type=Path, default=Path("../shared/models"), help="folder of the third-party models"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="where the images are")
    parser.add_argument("--audit-only", action="store_true", help="repeat the audits of rows that are there")
    options = parser.parse_args()
    unknown = set(options.names) - set(CASES)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; known: {', '.join(CASES)}")
    for name in options.names or CASES:
        case = CASES[name]
        model, x, y = subject(name, case, options.models, options.data_dir)
        threat = unmask.Linf(case.eps)
        if options.audit_only:
            again = {**audited(model, x, y, threat), "version": code_version()}
            store(name, {**json.loads((RESULTS / "attack_cost.json").read_text())[name], "audit_again": again})
            print(name, json.dumps(again), flush=True)
            continue
        row = {
            "n": len(x),
            "eps": case.eps,
            "seed": SEED,
            "audit": audited(model, x, y, threat),
            "autoattack": auto_attacked(model, x, y, threat),
            "threads": torch.get_num_threads(),
            "hardware": hardware(),
            "packages": packages(),
            "version": code_version(),
            "command": f"python benchmarks/attack_cost.py --models DIR --data-dir DIR {name!r}",
        }
        store(name, row)
        print(name, json.dumps({key: row[key] for key in ("n", "audit", "autoattack")}), flush=True)


if __name__ == "__main__":
    main()
