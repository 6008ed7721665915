"""The audit against an exact answer: an MNIST model whose robust accuracy is known by mixed-integer programming.

`mnist_wk17a_mipverify` (Wong & Kolter 2018, solved exactly by Tjeng et al. 2019) has an adversarial error of 4.38% at
Linf 0.1 on the 10,000 test images: no attack may report less than 95.62%. The weights are not part of this package:

    python benchmarks/exact_robustness.py --models ../shared/models --data-dir data --run-dir runs/exact
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

import unmask
from unmask.environment import code_version, hardware, packages

EXACT, EPS, SEED = 0.9562, "0.1", 0
RESULTS = Path(__file__).parent / "results"


def network(weights: Path) -> nn.Module:
    """Return the model: two strided convolutions, two linear layers."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    model.load_state_dict(load_file(weights))
    return model.eval().requires_grad_(False)


def main() -> None:
    """Audit all 10,000 images and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of mnist_wk17a_mipverify.safetensors")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/exact"), help="where the record goes; resumes")
    options = parser.parse_args()
    data = unmask.load_data("mnist", "test", data_dir=options.data_dir)
    model = network(options.models / "mnist_wk17a_mipverify.safetensors")
    begun = time.monotonic()
    result = unmask.audit(
        model,
        data.pixels(),
        data.labels,
        unmask.Linf(EPS),
        seed=SEED,
        run_dir=options.run_dir,
        ids=data.ids,
        batch_size=1000,
        subject=unmask.Subject("mnist_wk17a_mipverify", "", data.name, data.split, data.classes),
        watch=lambda now: print(f"{now.round}/{now.rounds} {now.attack} at most {now.upper_bound:.4f}", flush=True),
    )
    row = {
        "n": len(data),
        "seed": SEED,
        "threat": f"Linf({EPS})",
        "budget": "standard",
        "exact": EXACT,
        "clean_accuracy": result.clean_accuracy,
        "claimed_accuracy": result.claimed_accuracy,
        "robust_accuracy": result.robust_accuracy,
        "verdict": result.verdict.label,
        "evaluations_per_image": (result.forwards + result.backwards) / len(data),
        "seconds_of_this_call": round(time.monotonic() - begun),
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": "python benchmarks/exact_robustness.py --models DIR",
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "exact_robustness.json").write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row, indent=2))
    if result.robust_accuracy < EXACT:
        raise SystemExit("The audit reports less than the exact robust accuracy: a recorded break must be wrong.")


if __name__ == "__main__":
    main()
