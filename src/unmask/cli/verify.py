"""`unmask verify`: replay every break of a finished audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.console import out, print_json
from unmask.cli.options import Json

WITH_WEIGHTS = " with weights "


def verify(
    run: Annotated[Path, typer.Argument(help="The folder of an audit.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now, if not where it was.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights for a module:function or an architecture's name.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict every recorded break again, check it against ball and box, and say what holds. Exit 1 if any does not.

    Examples:

        unmask verify runs/audit-mnist-clp-mnist-test-1000-Linf-0.3-standard-pgd-40-s0

        unmask verify runs/my-audit --model my_models:net --weights net.pt
    """
    from unmask.audit import verify as replay
    from unmask.ledger import load_run
    from unmask.models import load_model

    recorded = load_run(run)
    source, _, recorded_weights = recorded.spec.model.source.partition(WITH_WEIGHTS)
    if model is None and weights is None and recorded_weights:
        weights = Path(recorded_weights)
    loaded = load_model(model or source, weights=weights)
    found = replay(recorded, loaded.model)
    if json:
        print_json({"run": run, **vars(found)})
    else:
        out.print(f"{len(found.confirmed):,} of {found.breaks:,} breaks confirmed.")
        if found.rounding:
            out.print(f"{len(found.rounding):,} lie within float rounding of the decision boundary.")
        for example, reason in list(found.refuted.items())[:10]:
            out.print(f"Image {example}: {reason}.", markup=False)
    if found.refuted:
        raise typer.Exit(1)
