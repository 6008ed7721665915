"""`unmask audit`: say how robust a model really is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unmask.cli.console import COLOURS, err, out, print_json, print_table, share
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
    from unmask.audit import AuditResult
    from unmask.audit.budgets import Access
    from unmask.data import DataSet


def audit(
    model: Annotated[
        str, typer.Argument(help="A packaged model, a training run, a .safetensors or .onnx file, or module:function.")
    ],
    weights: Weights = None,
    data: Data = None,
    split: Split = "test",
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, help="How many images, the first ones. Default: all.")
    ] = None,
    sample: Sampled = False,
    eps: Eps = None,
    norm: Norm = None,
    budget: Annotated[
        str,
        typer.Option(
            help="quick, standard, exhaustive, N evaluations per image, or a plan such as autoattack-standard "
            "(`unmask list budgets`)."
        ),
    ] = "standard",
    access: Annotated[
        str, typer.Option(help="What the attacker has: gradients, scores (query by query) or labels.")
    ] = "gradients",
    claim: Annotated[
        str | None,
        typer.Option(
            help="The usual attack whose figure is the claim: pgd-N, pgd-N-step-SIZE, fgsm or none. "
            "Default: the card's, else pgd-40; none without access to gradients."
        ),
    ] = None,
    seed: Seed = 0,
    run_dir: Annotated[Path | None, typer.Option(help="Where the record goes. Default: runs/audit-MODEL-....")] = None,
    batch_size: BatchSize = 256,
    data_dir: DataDir = None,
    download: Download = False,
    device: Device = "cpu",
    fail_under: Annotated[float | None, typer.Option(min=0, max=1, help="Exit 1 if robust accuracy is lower.")] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Also write the result as JUnit XML: a test for the accuracy, one per check.")
    ] = None,
    json: Json = False,
) -> None:
    """Attack a model and say how robust it really is; the same command resumes.

    Clean accuracy, then the usual attack (the claim), then stronger ones on the survivors; every break is verified.
    Under torchrun all processes share the work.

    Examples:

        unmask audit mnist-clp -n 1000 --data-dir data

        unmask audit runs/digits-clp-s0

        unmask audit my_models:robust_net --weights net.pt --data cifar10 --eps 8/255 -n 1000

        unmask audit my_service:net --data images.npz --eps 8/255 --access scores --budget 500

        unmask audit net.onnx --data images.npz --eps 8/255 --access scores --fail-under 0.4 --junit audit.xml

        torchrun --nproc-per-node 2 -m unmask audit mnist-clp -n 1000 --data-dir data
    """
    from unmask.audit import audit as run
    from unmask.cli.progress import bar
    from unmask.distributed import Workers, local_device
    from unmask.models import load_model
    from unmask.report import write_junit

    workers, device = Workers.here(), local_device(device)
    loaded = load_model(model, weights=weights, device=device)
    if access == "gradients" and not loaded.gradients:
        raise AuditError(
            f"{model} has no gradients: it answers with logits alone. Audit what it has: --access scores (or labels), "
            "where --budget counts queries."
        )
    threat = threat_of(loaded, eps, norm)
    usual = str((loaded.card or {}).get("usual_attack", "pgd-40")) if access == "gradients" else "none"
    claim = claim or usual

    def load() -> DataSet:
        return images_of(loaded, data, split, n, sample, seed, data_dir, download)

    if download:
        workers.together(lambda: load() if workers.leads else None)  # two must not fetch to one file
    images = load().to(device)
    spending = budget if access == "gradients" else f"{budget}-{access}"
    folder = run_dir or run_folder("audit", *data_words(loaded, images, threat), spending, claim, f"s{seed}")
    with bar(f"Auditing {loaded.name}", visible=workers.leads) as shown:
        result = run(
            loaded.model,
            images.pixels(),
            images.labels,
            threat,
            budget=budget,
            claim=None if claim == "none" else claim,
            access=cast("Access", access),
            seed=seed,
            run_dir=folder,
            batch_size=batch_size,
            ids=images.ids,
            subject=subject_of(loaded, model, weights, images),
            watch=shown.audit,
            workers=workers,
        )
    if not workers.leads:
        return
    if junit is not None:
        write_junit(result.run, junit, fail_under=fail_under, errors=result.errors)
    if json:
        print_json(_summary(result, folder))
    else:
        _show(result, folder)
    if result.errors:
        first, message = next(iter(result.errors.items()))
        raise AuditError(
            f"{len(result.errors)} images ended in an error, so there is no headline. Image {first}: {message}. "
            "Mend the model and audit again in a new --run-dir."
        )
    if fail_under is not None and result.robust_accuracy < fail_under:
        err.print(f"Robust accuracy {share(result.robust_accuracy)} is below {share(fail_under)} (--fail-under).")
        raise typer.Exit(1)


def _summary(result: AuditResult, folder: Path) -> dict[str, Any]:
    return {
        "headline": result.headline,
        "verdict": asdict(result.verdict),
        "clean_accuracy": result.clean_accuracy,
        "claimed_accuracy": result.claimed_accuracy,
        "robust_accuracy": result.robust_accuracy,
        "robust_accuracy_8bit": result.robust_accuracy_8bit,
        "interval": list(result.interval),
        "n": len(result.survived),
        "forwards": result.forwards,
        "backwards": result.backwards,
        "findings": [{**vars(finding), "evidence": dict(finding.evidence)} for finding in result.findings],
        "run_dir": folder,
    }


def _show(result: AuditResult, folder: Path) -> None:
    from unmask.ledger import queries

    rows = queries.attack_table(result.run)
    print_table(
        "",
        ["attack", "runs", "on", "broken", "left", "evaluations"],
        [
            (
                row.attack,
                str(row.restarts),
                str(row.attempted),
                str(row.broken),
                share(row.accuracy_after),
                f"{row.forwards + row.backwards:,}",
            )
            for row in rows
            if row.attempted
        ],
    )
    label = result.verdict.label
    files = next((finding.summary for finding in result.findings if finding.check == "eight_bit"), None)
    out.print()
    if result.headline:
        out.print(f"{result.headline}.", style="bold", markup=False, soft_wrap=True)
    out.print(f"Verdict: [bold {COLOURS[label]}]{label}[/]. {' '.join(result.verdict.reasons)}", soft_wrap=True)
    if result.verdict.change:
        out.print(f"What would change it: {' '.join(result.verdict.change)}", markup=False, soft_wrap=True)
    if files:
        out.print(files, soft_wrap=True, markup=False)
    for finding in result.findings:
        if finding.status in ("warn", "fail") and finding.check != "eight_bit":
            out.print(f"  {finding.status}: {finding.summary} {finding.next_step}", markup=False, soft_wrap=True)
    out.print(f"Record: {folder} (unmask report {folder}; unmask verify {folder})", soft_wrap=True, markup=False)
