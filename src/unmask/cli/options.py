"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data sets are found. Default: $UNMASK_DATA, else ~/.cache/unmask."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a missing data set (checked by checksum).")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="All random draws derive from it.")]
