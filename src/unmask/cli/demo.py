"""`unmask demo`: the seeds' story on the embedded digits, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.console import out, print_json, print_table, share
from unmask.cli.options import Json, Seed

RECIPES = ("digits-plain", "digits-clp", "digits-lsq", "digits-at")


def demo(
    run_dir: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train four defences on the embedded digits, audit them, and write the report. Two cores need a few minutes.

    Two of the four only fool the usual attack; the audit says which. The same command resumes.

    Example:

        unmask demo
    """
    from unmask.audit import Subject, audit
    from unmask.cli.progress import bar
    from unmask.data import load_data
    from unmask.recipes import train
    from unmask.report import write_report

    images = load_data("digits", "test")
    results = {}
    for name in RECIPES:
        with bar(f"Training {name}") as shown:
            trained = train(name, seed=seed, run_dir=run_dir / name, watch=shown.training)
        subject = Subject(name, str(run_dir / name), images.name, images.split, images.classes)
        with bar(f"Auditing {name}") as shown:
            results[name] = audit(
                trained.model,
                images.pixels(),
                images.labels,
                trained.recipe.threat,
                claim=trained.recipe.usual_attack,
                seed=seed,
                run_dir=run_dir / f"{name}-audit",
                ids=images.ids,
                subject=subject,
                watch=shown.audit,
            )
        if not json:
            out.print(f"{name}: {results[name].headline}.", markup=False, soft_wrap=True)
    report = write_report([result.run for result in results.values()], run_dir / "report.html")
    rows = [
        (
            name,
            str(r.run.spec.threat),
            share(r.clean_accuracy),
            share(r.claimed_accuracy),
            share(r.robust_accuracy),
            r.verdict.label,
        )
        for name, r in results.items()
    ]
    columns = ["model", "threat", "clean", "claimed (PGD-40)", "measured", "verdict"]
    if json:
        print_json({"models": [dict(zip(columns, row, strict=True)) for row in rows], "report": report})
        return
    print_table("", columns, rows)
    out.print(f"Report: {report}", soft_wrap=True)
