"""`unmask train`: train a recipe."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.console import err, out, print_json, share
from unmask.cli.options import DataDir, Device, Download, Json
from unmask.errors import RecipeError

if TYPE_CHECKING:
    from unmask.recipes import Configuration, Trained


def _recipes() -> list[tuple[str, str]]:
    from unmask.recipes import RECIPES

    return [(name, make().summary) for name, make in RECIPES.items()]


def _loggers() -> list[str]:
    from unmask.training import LOGGERS

    return list(LOGGERS)


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe's name (`unmask list recipes`), or a TOML file.", autocompletion=_recipes),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, by its key in the file; may be repeated."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set, .npz file or image folder, in place of the recipe's.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="An architecture or your own module:function, in place of the recipe's.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, in place of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, in place of the recipe's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="All random draws derive from it. Default: the file's, else 0.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where weights and logs go. Default: runs/RECIPE-sSEED.")] = None,
    data_dir: DataDir = None,
    download: Download = False,
    device: Device = "cpu",
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Log to tensorboard, mlflow or wandb too (extras); may be repeated.", autocompletion=_loggers
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="The same as --log tensorboard.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings as a TOML file, and train nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a recipe; the same command resumes an unfinished training.

    Leaves `model.safetensors`, the model card `model.json`, the settings `recipe.toml`, `log.jsonl` and checkpoints in
    the run's folder. Under torchrun all processes share every step.

    Examples:

        unmask train digits-clp

        unmask train mnist-clp --epochs 60 --data-dir data --run-dir runs/clp

        unmask train mnist-at --set optimizer.lr=1e-4 --set adversary.steps=10 --set terms.0.weight=0.5

        unmask train mnist-at --dry-run > mine.toml

        unmask train mine.toml --data images.npz --model my_models:net --log mlflow

        torchrun --nproc-per-node 2 -m unmask train mnist-at --data-dir data --device cuda
    """
    from unmask.cli.progress import bar
    from unmask.distributed import Workers
    from unmask.recipes import Configuration, configure, override
    from unmask.recipes import train as run
    from unmask.training import training_log

    configured = configure(recipe, _changes(changes or [], data, model))
    chosen = override(configured.recipe, epochs=epochs, batch_size=batch_size)
    configured = Configuration(chosen, configured.seed if seed is None else seed)
    leads = Workers.here().leads
    if dry_run:
        if leads:
            _show(configured, json)
        return
    folder = run_dir or Path("runs") / f"{chosen.name.replace('/', '-')}-s{configured.seed}"
    loggers = [*(log or []), *(["tensorboard"] if tensorboard else [])]
    logging: AbstractContextManager[Any] = (
        training_log(loggers, folder, _settings(configured)) if leads else nullcontext()
    )
    if leads:
        err.print(_text(configured), markup=False, soft_wrap=True, style="dim")
    with bar(f"Training {chosen.name}", visible=leads) as shown, logging as logged:
        trained = run(
            chosen,
            seed=configured.seed,
            run_dir=folder,
            data_dir=data_dir,
            download=download,
            device=device,
            watch=shown.training,
            log=logged,
        )
    if leads and json:
        print_json({**trained.card, "run_dir": folder})
    elif leads:
        _report(trained, folder)


def _changes(settings: list[str], data: str | None, model: str | None) -> dict[str, dict[str, Any]]:
    from unmask.recipes.configuration import setting

    given = {f"--set {text}": setting(text) for text in settings}
    named = {"--data": ("data", data), "--model": ("architecture", model)}
    return given | {option: {key: value} for option, (key, value) in named.items() if value is not None}


def _settings(configured: Configuration) -> dict[str, Any]:
    """Return all settings; those that no file could hold as they are described in the card."""
    try:
        return configured.table()
    except RecipeError:
        return {**configured.recipe.describe(), "seed": configured.seed}


def _text(configured: Configuration) -> str:
    try:
        return configured.toml()
    except RecipeError as error:
        return f"# {configured.recipe.name}, which is Python. {error}"


def _show(configured: Configuration, json: bool) -> None:
    if json:
        print_json(configured.table())
    else:
        out.print(configured.toml(), markup=False, soft_wrap=True, end="")


def _report(trained: Trained, folder: Path) -> None:
    card, figures = trained.card, trained.card["figures"]
    fifth = figures.get("clean_accuracy_top5")
    out.print(
        f"Trained {card['name']}: {share(figures['clean_accuracy'])}{f' (top 5: {share(fifth)})' if fifth else ''} of "
        f"{figures['test_examples']:,} test images correct without attack.",
        soft_wrap=True,
    )
    out.print(f"Weights, card and settings: {folder}/model.safetensors, model.json, recipe.toml", soft_wrap=True)
    own = ":" in card["architecture"]
    target = [card["architecture"], "--weights", f"{folder}/model.safetensors"] if own else [str(folder)]
    out.print(f"Next: unmask audit {shlex.join(target)}", soft_wrap=True, markup=False)
