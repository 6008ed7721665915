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
Weights = Annotated[Path | None, typer.Option(help="Weights for a module:function or an architecture's name.")]
Data = Annotated[str | None, typer.Option(help="Data set, .npz file or image folder. Default: the model card's.")]
Split = Annotated[str, typer.Option(help="Which part of the data.")]
Sampled = Annotated[bool, typer.Option("--sample", help="Draw the n images at random (by --seed) instead.")]
Eps = Annotated[str | None, typer.Option(help="Size of the perturbation in [0, 1]: 0.3 or 8/255. Default: the card's.")]
Norm = Annotated[str | None, typer.Option(help="linf, l2 or l1. Default: the card's, else linf.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images attacked at once; changes no random draw.")]
