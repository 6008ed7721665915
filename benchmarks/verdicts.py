"""Is the verdict right? The default audit of planted cheats, of defences that mask, and of honest models.

A cheat is caught where a finding that warns or fails names its cause (`tests/zoo/cheats.py` says which); an honest
model must not be called masked. Models are planted on the packaged zoo, trained here in a minute, or come from a folder
of third-party weights (`exact_robustness.py`, `attack_cost.py`).

    python benchmarks/verdicts.py --models ../shared/models --data-dir data [--only NAME ...]

Rows are kept as they come: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from attack_cost import images, third_party
from torch import nn

import unmask
from unmask.data import DataSet
from unmask.environment import code_version, hardware, packages
from unmask.errors import ModelError
from unmask.models import build, load_model
from unmask.streams import derive_generator
from unmask.training import GaussianNoise, Optimizer, Training, adversarial_training, fit, label_smoothing, plain
from unmask.training import PgdAdversary as Adversary

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "zoo"))
from cheats import CHEATS, TRAINED_CHEATS, Wrapped, distilling, winners_take_all

SEED = 0
RESULTS = Path(__file__).parent / "results"
Make = Callable[[Path, Callable[[], DataSet]], Callable]
HONEST, CHEAT, MASKING = "honest", "cheat", "masking defence"


@dataclass(frozen=True)
class Subject:
    """A model of the zoo: what it is, how it is made, its images and threat, and for a cheat what must be said."""

    kind: str
    model: Make
    threat: unmask.ThreatModel
    data: str = "mnist"
    causes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def packaged(name: str) -> Make:
    return lambda models, train: load_model(name).model


def foreign(name: str) -> Make:
    return lambda models, train: third_party(name, models).eval().requires_grad_(False)


def trained(training: Training, network: Callable[[], nn.Module], *, distilled: bool = False) -> Make:
    def make(models: Path, train: Callable[[], DataSet]) -> nn.Module:
        torch.manual_seed(SEED)
        model = network()
        fit(distilling(model) if distilled else model, train().first(30_000), training, seed=SEED)
        return model.eval()

    return make


def strided() -> nn.Module:
    return build("strided-cnn", generator=derive_generator(SEED, "weights"))


def softmaxed() -> Make:
    return lambda models, train: Wrapped(load_model("mnist-plain").model, after=lambda z: z.softmax(1))


def planted(name: str) -> Make:
    return lambda models, train: CHEATS[name].plant(load_model("mnist-plain").model)


ADAM, LARGE, SMALL = Optimizer("adam", 2e-3), unmask.Linf("0.3"), unmask.Linf("0.1")
SHORT = Training(plain(), ADAM, epochs=2, batch_size=128)
HARDENED = Training(adversarial_training(Adversary(SMALL, 5, 0.04)), ADAM, epochs=2, batch_size=128)
ZOO: dict[str, Subject] = {
    **{name: Subject(CHEAT, planted(name), LARGE, causes=one.causes, words=one.words) for name, one in CHEATS.items()},
    "softmax": Subject(CHEAT, softmaxed(), LARGE, causes=("error",), words=("probabilities",)),
    "winners_take_all": Subject(
        CHEAT, trained(SHORT, lambda: winners_take_all(28)), SMALL, "mnist", *TRAINED_CHEATS["winners_take_all"]
    ),
    "distilled": Subject(CHEAT, trained(SHORT, strided, distilled=True), SMALL, "mnist", *TRAINED_CHEATS["distilled"]),
    "mnist-clp": Subject(MASKING, packaged("mnist-clp"), LARGE, causes=("claim_gap",), words=("overlooks",)),
    "mnist-lsq": Subject(MASKING, packaged("mnist-lsq"), LARGE, causes=("claim_gap",), words=("overlooks",)),
    "mnist_binary_cnn": Subject(
        MASKING, foreign("mnist_binary_cnn"), LARGE, causes=("gradients",), words=("zero", "gradients")
    ),
    "strided, smoothing": Subject(
        MASKING,
        trained(Training(label_smoothing(0.1), ADAM, epochs=2, batch_size=128), strided),
        SMALL,
        causes=("claim_gap",),
        words=("overlooks",),
    ),
    "mnist-plain": Subject(HONEST, packaged("mnist-plain"), LARGE),
    "mnist-plain, 0.1": Subject(HONEST, packaged("mnist-plain"), SMALL),
    "mnist-ls": Subject(HONEST, packaged("mnist-ls"), LARGE),
    "mnist-at": Subject(HONEST, packaged("mnist-at"), LARGE),
    "mnist-at, 0.1": Subject(HONEST, packaged("mnist-at"), SMALL),
    "mnist_trades": Subject(HONEST, foreign("mnist_trades"), LARGE),
    "mnist_sdp_cnn_a_adv": Subject(HONEST, foreign("mnist_sdp_cnn_a_adv"), LARGE),
    "mnist_wk17a_mipverify": Subject(HONEST, foreign("mnist_wk17a_mipverify"), SMALL),
    "mnist_rsl18a": Subject(HONEST, foreign("mnist_rsl18a"), SMALL),
    "cifar10_resnet2b, 2/255": Subject(HONEST, foreign("cifar10_resnet2b"), unmask.Linf("2/255"), "cifar10"),
    "cifar10_resnet2b, 8/255": Subject(HONEST, foreign("cifar10_resnet2b"), unmask.Linf("8/255"), "cifar10"),
    "strided, plain": Subject(HONEST, trained(SHORT, strided), SMALL),
    "strided, noise": Subject(
        HONEST,
        trained(Training(plain(), ADAM, epochs=2, batch_size=128, augmentations=(GaussianNoise(0.3),)), strided),
        SMALL,
    ),
    "strided, PGD-5": Subject(HONEST, trained(HARDENED, strided), SMALL),
    "clothes, plain": Subject(HONEST, trained(SHORT, strided), unmask.Linf("8/255"), "fashion-mnist"),
    "clothes, PGD-5": Subject(HONEST, trained(HARDENED, strided), SMALL, "fashion-mnist"),
}


def measure(subject: Subject, models: Path, data_dir: Path | None, n: int) -> dict:
    """Audit one model; returns its row."""
    begun = time.monotonic()
    model = subject.model(models, lambda: unmask.load_data(subject.data, "train", data_dir=data_dir))
    try:
        result = unmask.audit(model, *images(subject.data, n, data_dir), subject.threat, seed=SEED)
    except ModelError as error:
        return {"kind": subject.kind, "verdict": "refused", "caught_by": _caught(subject, {"error": str(error)})}
    raised = {one.check: f"{one.summary} {one.next_step}" for one in result.findings if one.status in ("warn", "fail")}
    checks = sum(one.forwards + one.backwards for one in result.findings)
    return {
        "kind": subject.kind,
        "threat": str(subject.threat),
        "data": subject.data,
        "n": n,
        "clean": result.clean_accuracy,
        "claimed": result.claimed_accuracy,
        "measured": result.robust_accuracy,
        "verdict": result.verdict.label,
        "caught_by": _caught(subject, raised),
        "raised": {one.check: one.status for one in result.findings if one.status in ("warn", "fail")},
        "attack_evaluations": result.forwards + result.backwards - checks,
        "check_evaluations": checks,
        "seconds": round(time.monotonic() - begun, 1),
    }


def _caught(subject: Subject, raised: dict[str, str]) -> list[str]:
    """Return the checks that name the cause."""
    return [check for check in subject.causes if any(word in raised.get(check, "").lower() for word in subject.words)]


def is_right(row: dict) -> bool:
    """Say whether an honest model was not called masked, and any other caught by its cause."""
    return row["verdict"] != "masked" if row["kind"] == HONEST else bool(row["caught_by"])


def markdown(about: dict, rows: dict[str, dict]) -> str:
    """Return the result as a page."""
    labels = ["robust", "not robust", "masked", "inconclusive", "refused"]
    lines = [
        "# Verdicts",
        "",
        f"The default audit on the first {about['n']} test images, seed {SEED}, claim pgd-40.",
        f"Hardware: {json.dumps(about['hardware'])}. unmask {about['version']}, {json.dumps(about['packages'])}.",
        f"Command: `{about['command']}`.",
        "",
        f"Right: {sum(map(is_right, rows.values()))} of {len(rows)}: honest models that are not called masked, others",
        "of which a finding names the cause.",
        "",
        f"| | {' | '.join(labels)} | cause named |",
        f"| --- |{' --- |' * (len(labels) + 1)}",
    ]
    for kind in (HONEST, MASKING, CHEAT):
        of_kind = [row for row in rows.values() if row["kind"] == kind]
        counts = [str(sum(row["verdict"] == label for row in of_kind)) for label in labels]
        named = "-" if kind == HONEST else f"{sum(bool(row['caught_by']) for row in of_kind)} of {len(of_kind)}"
        lines.append(f"| {kind} ({len(of_kind)}) | {' | '.join(counts)} | {named} |")
    lines += [
        "",
        "Label smoothing counts as a defence that masks, not as honest: PGD leaves six times what all attacks leave.",
        "",
        "| model | threat | clean | claimed | measured | verdict | cause named by | other warnings | "
        "evaluations: attacks, checks |",
        "| --- |" + " --- |" * 8,
    ]
    for name, row in rows.items():
        named = ", ".join(row["caught_by"]) or ("-" if row["kind"] == HONEST else "**none**")
        if row["verdict"] == "refused":
            lines.append(f"| {name} | - | - | - | - | refused | {named} | - | - |")
            continue
        others = ", ".join(check for check in row["raised"] if check not in row["caught_by"]) or "-"
        lines.append(
            f"| {name} | {row['threat']} | {row['clean']:.1%} | {row['claimed']:.1%} | {row['measured']:.1%} | "
            f"{row['verdict']} | {named} | {others} | {row['attack_evaluations']:,}, {row['check_evaluations']:,} |"
        )
    return "\n".join([*lines, ""])


def main(names: Sequence[str] | None = None) -> None:
    """Audit what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help="folder of third-party weights")
    parser.add_argument("--data-dir", type=Path, help="where MNIST and Fashion-MNIST are (default: $UNMASK_DATA)")
    parser.add_argument("-n", "--images", type=int, default=200, help="how many test images")
    parser.add_argument("--only", choices=ZOO, nargs="+", help="measure these anew")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(names)
    path = options.results / "verdicts.json"
    record = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    for name in options.only or [name for name in ZOO if name not in record["rows"]]:
        record["rows"][name] = measure(ZOO[name], options.models, options.data_dir, options.images)
        record["rows"] = {one: record["rows"][one] for one in ZOO if one in record["rows"]}
        record["about"] = {
            "n": options.images,
            "hardware": hardware(),
            "packages": packages(),
            "version": code_version(),
            "command": f"python benchmarks/verdicts.py -n {options.images}",
        }
        print(name, json.dumps(record["rows"][name]), flush=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        (options.results / "verdicts.md").write_text(markdown(record["about"], record["rows"]))


if __name__ == "__main__":
    main()
