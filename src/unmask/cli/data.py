"""`unmask data`: prepare and describe data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.console import out, print_json, print_table
from unmask.cli.options import DataDir, Download, Json
from unmask.errors import DataError, unknown


def prepare(
    name: Annotated[str, typer.Argument(help="tiny-imagenet.")],
    archive: Annotated[Path, typer.Argument(help="The official zip file.")],
    data_dir: DataDir = None,
) -> None:
    """Turn an official archive into the form that is read at once.

    Example:

        unmask data prepare tiny-imagenet tiny-imagenet-200.zip --data-dir data
    """
    from unmask.cli.progress import bar
    from unmask.data import tiny_imagenet
    from unmask.data.registry import default_data_dir

    if name != "tiny-imagenet":
        raise DataError(unknown("archive to prepare", name, ["tiny-imagenet"]))
    with bar("Reading images") as shown:
        paths = tiny_imagenet.prepare(archive, data_dir or default_data_dir(), progress=shown.count)
    out.print(f"Prepared: {paths}", soft_wrap=True)


def info(
    name: Annotated[str, typer.Argument(help="A data set, .npz file or image folder.")],
    split: Annotated[str, typer.Option(help="Which part of the data.")] = "test",
    data_dir: DataDir = None,
    download: Download = False,
    json: Json = False,
) -> None:
    """Say what a data set holds: images, classes, and how many images each class has.

    Example:

        unmask data info mnist --data-dir data
    """
    from unmask.data import load_data

    data = load_data(name, split, data_dir=data_dir, download=download)
    counts = data.labels.bincount(minlength=len(data.classes)).tolist()
    if json:
        print_json(
            {
                "name": data.name,
                "split": data.split,
                "n": len(data),
                "input_shape": data.input_shape,
                "classes": dict(zip(data.classes, counts, strict=True)),
                "fingerprint": data.fingerprint(),
            }
        )
        return
    out.print(
        f"{data.name} ({data.split}): {len(data):,} images of shape {data.input_shape}, "
        f"sha256 {data.fingerprint()[:16]}"
    )
    print_table(
        "", ["class", "images"], [(label, str(count)) for label, count in zip(data.classes, counts, strict=True)]
    )
