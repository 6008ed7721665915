"""`unmask report`: one offline page from one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.console import out, print_json
from unmask.cli.options import Json


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of audits, and of diagnoses of the same models.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    json: Json = False,
) -> None:
    """Write one HTML file that needs no network: verdict, attacks, curves, pictures, provenance.

    Examples:

        unmask report runs/audit-mnist-clp-mnist-test-1000-Linf-0.3-standard-pgd-40-s0

        unmask report runs/audit-* -o comparison.html

        unmask report runs/audit-mnist-clp runs/diagnose-mnist-clp
    """
    from unmask.ledger import load_run
    from unmask.ledger.diagnosis import is_diagnosis, load_diagnosis
    from unmask.report import write_report

    audits = [load_run(run) for run in runs if not is_diagnosis(run)]
    path = write_report(audits, output, [load_diagnosis(run) for run in runs if is_diagnosis(run)])
    if json:
        print_json({"report": path, "runs": runs})
    else:
        out.print(f"Report: {path}", soft_wrap=True)
