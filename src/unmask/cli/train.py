"""`unmask train`: train a recipe."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.console import out, print_json, share
from unmask.cli.options import DataDir, Device, Download, Json, Seed


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name; `unmask list recipes` shows them.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, in place of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, in place of the recipe's.")] = None,
    seed: Seed = 0,
    run_dir: Annotated[Path | None, typer.Option(help="Where weights and logs go. Default: runs/RECIPE-sSEED.")] = None,
    data_dir: DataDir = None,
    download: Download = False,
    device: Device = "cpu",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log to RUN_DIR/tensorboard too; needs unmask[tensorboard].")
    ] = False,
    json: Json = False,
) -> None:
    """Train a recipe; the same command resumes an unfinished training.

    Leaves `model.safetensors`, the model card `model.json`, `log.jsonl` and checkpoints in the run's folder.

    Examples:

        unmask train digits-clp

        unmask train mnist-clp --epochs 60 --data-dir data --run-dir runs/clp
    """
    from unmask.cli.progress import bar
    from unmask.recipes import find_recipe
    from unmask.recipes import train as run
    from unmask.training import tensorboard_log

    find_recipe(recipe)  # before anything is written for an unknown one
    folder = run_dir or Path("runs") / f"{recipe.replace('/', '-')}-s{seed}"
    logging = tensorboard_log(folder / "tensorboard") if tensorboard else nullcontext()
    with bar(f"Training {recipe}") as shown, logging as log:
        trained = run(
            recipe,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            run_dir=folder,
            data_dir=data_dir,
            download=download,
            device=device,
            watch=shown.training,
            log=log,
        )
    if json:
        print_json({**trained.card, "run_dir": folder})
        return
    figures = trained.card["figures"]
    out.print(
        f"Trained {trained.recipe.name}: {share(figures['clean_accuracy'])} of {figures['test_examples']:,} test "
        "images correct without attack."
    )
    out.print(f"Weights and card: {folder}/model.safetensors, model.json", soft_wrap=True)
    out.print(f"Next: unmask audit {folder}", soft_wrap=True)
