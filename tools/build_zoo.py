"""Make the packaged models: train their recipes, store the weights as fp16, audit what is stored, write the cards.

    python tools/build_zoo.py --data-dir data --runs runs/zoo

What is already trained or audited in the folder of runs is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save

import unmask
from unmask.models import build
from unmask.models.zoo import CARD_KEYS, WEIGHTS
from unmask.recipes import train

RECIPES = ("mnist-plain", "mnist-clp", "mnist-lsq", "mnist-ls", "mnist-alp", "mnist-at")
IMAGES = 1000


def package(name: str, runs: Path, data_dir: Path | None) -> dict:
    """Train, halve, audit and write one model; returns its card."""
    trained = train(name, run_dir=runs / name, data_dir=data_dir)
    halved = {key: tensor.half() for key, tensor in load_file(runs / name / "model.safetensors").items()}
    payload = save(halved)
    model = build(trained.card["architecture"], classes=trained.card["classes"]).eval().requires_grad_(False)
    model.load_state_dict({key: tensor.float() for key, tensor in halved.items()})
    data = unmask.load_data(trained.recipe.data, "test", data_dir=data_dir)
    with torch.no_grad():
        clean = (model(data.pixels()).argmax(1) == data.labels).float().mean().item()
    first = data.first(IMAGES)
    subject = unmask.Subject(name, name, data.name, data.split, data.classes)
    audited = unmask.audit(
        model,
        first.pixels(),
        first.labels,
        trained.recipe.threat,
        claim=trained.recipe.usual_attack,
        ids=first.ids,
        subject=subject,
        run_dir=runs / f"{name}-fp16-audit",
    )
    figures = {
        "clean_accuracy": round(clean, 4),
        "test_examples": len(data),
        "claim": audited.run.spec.claim,
        "claimed_accuracy": round(audited.claimed_accuracy, 4),
        "robust_accuracy": round(audited.robust_accuracy, 4),
        "interval": [round(bound, 4) for bound in audited.interval],
        "audited_examples": IMAGES,
        "audit": f"unmask audit {name} -n {IMAGES}",
        "verdict": audited.verdict.label,
    }
    card = {
        **trained.card,
        "usual_attack": trained.recipe.usual_attack,
        "weights": "fp16",
        "figures": figures,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    card = {key: card[key] for key in (*CARD_KEYS, "usual_attack", "weights", "packages", "version")}
    WEIGHTS.mkdir(exist_ok=True)
    (WEIGHTS / f"{name}.safetensors").write_bytes(payload)
    (WEIGHTS / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def main() -> None:
    """Package every recipe of the zoo, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=RECIPES, help=f"default: {' '.join(RECIPES)}")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is (default: $UNMASK_DATA)")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where models and audits go")
    options = parser.parse_args()
    for name in options.names:
        print(name, json.dumps(package(name, options.runs, options.data_dir)["figures"]), flush=True)


if __name__ == "__main__":
    main()
