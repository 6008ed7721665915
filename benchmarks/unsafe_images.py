"""Images known to be breakable on which gradient attacks fail: how many of them the audit breaks, and at what cost.

For `mnist_sdp_cnn_a_adv` mixed-integer programming found adversarial images at eps 0.3 on 20 test images where 100
restarts of 100 PGD steps break none or one. Model and list are not part of this package:

    python benchmarks/unsafe_images.py --models ../shared/models --data-dir ../shared/data --budget 5000
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import torch
from attack_cost import RESULTS, SEED, third_party

import unmask
from unmask.environment import code_version, hardware, packages
from unmask.ledger import queries

NAME, EPS = "mnist_sdp_cnn_a_adv", "0.3"


def main() -> None:
    """Audit the listed images and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, default=Path("../shared/models"), help="folder of the model and its list"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="where MNIST is")
    parser.add_argument("--budget", default="exhaustive", help="as `unmask audit --budget`")
    options = parser.parse_args()
    listed = (options.models / f"{NAME}.unsafe_test_indices.txt").read_text()
    ids = torch.tensor([int(word) for word in re.findall(r"^\s*(\d+)", listed, re.MULTILINE)])
    data = unmask.load_data("mnist", "test", data_dir=options.data_dir)
    x, y = data.pixels()[ids], data.labels[ids]
    model = third_party(NAME, options.models).eval().requires_grad_(False)
    begun = time.monotonic()
    result = unmask.audit(
        model, x, y, unmask.Linf(EPS), budget=options.budget, claim=None, seed=SEED, ids=ids, diagnostics=False
    )
    row = {
        "n": len(ids),
        "budget": options.budget,
        "broken": ids[~result.survived].tolist(),
        "broken_by": [name for name in queries.broken_by(result.run).tolist() if name],
        "evaluations_per_image": (result.forwards + result.backwards) / len(ids),
        "seconds": round(time.monotonic() - begun),
        "seed": SEED,
        "hardware": hardware(),
        "packages": packages(),
        "version": code_version(),
        "command": f"python benchmarks/unsafe_images.py --models DIR --data-dir DIR --budget {options.budget}",
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "unsafe_images.json").write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
