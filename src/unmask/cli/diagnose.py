"""`unmask diagnose`: where a model's robustness comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.console import err, out, print_json
from unmask.cli.figure import check_format
from unmask.cli.options import (
    BatchSize,
    Data,
    DataDir,
    Device,
    Download,
    Eps,
    Json,
    Norm,
    Sampled,
    Seed,
    Split,
    Weights,
)
from unmask.cli.subject import data_words, images_of, run_folder, subject_of, threat_of
from unmask.errors import AuditError

if TYPE_CHECKING:
    from unmask.audit.studies import Settings
    from unmask.diagnostics import Finding

N = 100
NAMES = (
    "heatmap, histogram, surface, eps-curve, restart-curve, step-curve, linearised, activations, indicators, "
    "binarization"
)


def _studies() -> list[tuple[str, str]]:
    from unmask.audit import STUDIES

    return [(study.name, study.summary) for study in STUDIES.values()]


def diagnose(
    model: Annotated[
        str, typer.Argument(help="A packaged model, a training run, a .safetensors file, or module:function.")
    ],
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...",
            help=f"Any of: {NAMES}; or all. Default: heatmap, histogram, surface, eps-curve, linearised, activations.",
            autocompletion=_studies,
        ),
    ] = None,
    weights: Weights = None,
    data: Data = None,
    split: Split = "test",
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, help=f"How many images, the first ones. Default: {N}.")
    ] = None,
    sample: Sampled = False,
    eps: Eps = None,
    norm: Norm = None,
    grid: Annotated[str, typer.Option(help="heatmap: coarse (7 x 7), or full (the paper's 37 x 37).")] = "coarse",
    restarts: Annotated[int, typer.Option(min=2, help="histogram, restart-curve: starts per image.")] = 100,
    points: Annotated[int, typer.Option(min=3, help="surface: points per axis (odd).")] = 41,
    directions: Annotated[
        str, typer.Option(help="surface: two of random, adversarial, eigen-1, eigen-2.")
    ] = "random,adversarial",
    images: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many images histogram (12), surface (3), indicators (100) and binarization (50) look at."
        ),
    ] = None,
    attack: Annotated[
        str, typer.Option(help="binarization: the attack on trial: an audit's budget, or pgd-N, pgd-N-step-SIZE, fgsm.")
    ] = "standard",
    seed: Seed = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the record goes. Default: runs/diagnose-MODEL-....")
    ] = None,
    batch_size: BatchSize = 256,
    data_dir: DataDir = None,
    download: Download = False,
    device: Device = "cpu",
    format: Annotated[str, typer.Option("--format", help="Figures as pdf, svg or png.")] = "png",
    json: Json = False,
) -> None:
    """Study where a model's robustness comes from, with figures; the same command resumes.

    It says beforehand about how much it will cost. Later commands may add studies to the same folder.

    Examples:

        unmask diagnose mnist-clp --data-dir data

        unmask diagnose mnist-clp heatmap -n 1000 --grid full --format pdf

        unmask diagnose runs/digits-clp-s0 histogram surface --restarts 1000

        unmask diagnose my_models:net binarization --data cifar10 --eps 8/255 --attack pgd-40
    """
    from unmask.audit import USUAL_STUDIES, study_names
    from unmask.audit import diagnose as run
    from unmask.audit.studies import Settings
    from unmask.cli.progress import bar
    from unmask.models import load_model
    from unmask.report.figures.recorded import draw_run

    names = study_names(studies or USUAL_STUDIES)
    axes = _pair(directions)
    settings = Settings(grid, restarts, points, axes, images, attack, batch_size)
    check_format(format)
    loaded = load_model(model, weights=weights, device=device)
    threat = threat_of(loaded, eps, norm)
    everything = images_of(loaded, data, split, None, sample, seed, data_dir, download)
    count = n or min(N, len(everything))
    chosen = (everything.sample(count, seed) if sample else everything.first(count)).to(device)
    folder = run_dir or run_folder("diagnose", *data_words(loaded, chosen, threat), *_changed(settings), f"s{seed}")
    _announce(names, settings, len(chosen), len(chosen.classes))
    with bar(f"Diagnosing {loaded.name}") as shown:
        found = run(
            loaded.model,
            chosen.pixels(),
            chosen.labels,
            threat,
            studies=names,
            grid=grid,
            restarts=restarts,
            points=points,
            directions=axes,
            images=images,
            attack=attack,
            seed=seed,
            run_dir=folder,
            batch_size=batch_size,
            ids=chosen.ids,
            subject=subject_of(loaded, model, weights, chosen),
            watch=shown.diagnosis,
        )
    figures = draw_run(folder, format, names)
    findings = dict(zip(names, found, strict=True))
    if json:
        described = {name: {**vars(finding), "evidence": dict(finding.evidence)} for name, finding in findings.items()}
        print_json({"findings": described, "n": len(chosen), "figures": figures, "run_dir": folder})
    else:
        _show(findings, figures, folder)


def _pair(directions: str) -> tuple[str, str]:
    words = [word.strip() for word in directions.split(",")]
    if len(words) != 2:
        raise AuditError(
            f"--directions is '{directions}'; expected two names with a comma, such as random,adversarial."
        )
    return words[0], words[1]


def _changed(settings: Settings) -> list[str]:
    """Return the settings that are not as they come, for the folder's name; the batch size decides nothing."""
    usual = {field.name: field.default for field in fields(settings)}
    given = {name: value for name, value in vars(settings).items() if value != usual[name] and name != "batch_size"}
    return [f"{name}-{'-'.join(value) if isinstance(value, tuple) else value}" for name, value in given.items()]


def _announce(names: tuple[str, ...], settings: Settings, n: int, classes: int) -> None:
    """Say about what every study will cost; on stderr, since it is no result."""
    from unmask.audit import STUDIES

    costs = {name: STUDIES[name].cost(settings, n, classes) for name in names}
    words = ", ".join(f"{name} {cost:,}" for name, cost in costs.items())
    err.print(
        f"On {n:,} images at most about {sum(costs.values()):,} evaluations, less what is recorded: {words}.",
        style="dim",
        soft_wrap=True,
        markup=False,
    )


def _show(findings: Mapping[str, Finding], figures: list[Path], folder: Path) -> None:
    for name, finding in findings.items():
        cost = f"{finding.forwards + finding.backwards:,} evaluations"
        status = finding.status.replace("_", " ")
        out.print(f"{name}: {status} ({cost}). {finding.summary}", markup=False, soft_wrap=True)
        if finding.next_step:
            out.print(f"  Next: {finding.next_step}", markup=False, soft_wrap=True)
    for path in figures:
        out.print(f"Figure: {path}", markup=False, soft_wrap=True)
    out.print(f"Record: {folder} (unmask figure KIND {folder})", markup=False, soft_wrap=True)
