"""Reproducing tables and figures: train what is missing, measure, and set it beside what was published."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from unmask.audit import Subject, diagnose
from unmask.contract import usable_device
from unmask.environment import code_version, hardware, packages
from unmask.errors import RecipeError
from unmask.files import make_folder
from unmask.ledger.comparison import CellEntry, Comparison, RowEntry, write_comparison
from unmask.models.callables import import_own
from unmask.recipes import Recipe, train
from unmask.recipes.scales import find_scale
from unmask.recipes.tables import Figure, Table, find_experiments
from unmask.report.figures import save
from unmask.report.figures.recorded import draw, load_recorded, panels_of
from unmask.reproduction.images import images_of
from unmask.reproduction.measuring import Measured, Target, measure
from unmask.reproduction.planning import Figured, Model, Plan, Studied, cells, make_plan
from unmask.training import EnsembleAdversary

DRAWN = "png"


@dataclass(frozen=True)
class Step:
    """What a watcher is told: which part of the plan (`number`, from 0, of `of`) is being made, and what it is."""

    number: int
    of: int
    what: str


Watch = Callable[[Step], None]


@dataclass(frozen=True)
class Asked:
    """What was asked for, so that another process can make the same plan again."""

    words: tuple[str, ...]
    scale: str
    seed: int
    root: Path
    data_dir: Path | None
    modern: tuple[str, ...] | None = None
    modules: tuple[str, ...] = ()
    instead: tuple[tuple[str, str], ...] = ()

    def plan(self) -> Plan:
        """Return the plan, with the recipes and tables that the user's own `modules` register.

        Raises RecipeError for unknown words, DataError for data that are absent, ModelError for a module that cannot be
        imported.
        """
        for module in self.modules:
            import_own(module)
        chosen = {one.name: one for word in self.words for one in find_experiments(word)}.values()
        return make_plan(
            chosen,
            find_scale(self.scale),
            seed=self.seed,
            root=self.root,
            data_dir=self.data_dir,
            modern=self.modern,
            instead=dict(self.instead),
        )


def reproduce(
    words: str | Sequence[str],
    *,
    scale: str = "small",
    seed: int = 0,
    root: str | Path = "runs/reproduce",
    data_dir: str | Path | None = None,
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    modern: Sequence[str] | None = None,
    instead: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> list[Comparison]:
    """Reproduce tables and figures by name ("000/mnist", "001", "all") at a scale, and return them, published and ours.

    Everything is kept under `root`, models and measurements under names that their settings decide: the same call goes
    on where a killed one stopped, and what two tables share is made once. `workers` processes share the work, in turn
    on the `devices`. `modern` are the columns measured beside the published ones (None: all). `instead`
    names other data, in the words of `load_data`, by the data set whose place they take. Each table's record is left in
    `root/SCALE/NAME/comparison.json`.

    Raises RecipeError for unknown names, DataError for data that are absent, and what training and audit raise.
    """
    asked = Asked(
        (words,) if isinstance(words, str) else tuple(words),
        scale,
        seed,
        Path(root),
        None if data_dir is None else Path(data_dir),
        None if modern is None else tuple(modern),
        instead=tuple((instead or {}).items()),
    )
    return carry_out(asked, asked.plan(), devices=devices, workers=workers, watch=watch)


def carry_out(
    asked: Asked, plan: Plan, *, devices: Sequence[str] = ("cpu",), workers: int = 1, watch: Watch | None = None
) -> list[Comparison]:
    """Carry out the plan of what was asked for; otherwise as `reproduce`."""
    if workers < 1 or not devices:
        raise RecipeError(f"{workers} workers on {len(devices)} devices: expected one or more of each.")
    for device in devices:
        usable_device(device)
    everything = [*_trainings(plan), *_findings(plan)]
    if workers == 1:
        for number, what in enumerate(everything):
            _tell(watch, number, len(everything), what)
            _make(plan, what, devices[0])
    else:
        _share(asked, plan, workers, devices, watch)
    return [_compared(plan, one, asked, devices[0]) for one in plan.experiments]


Work = Model | Figured | Studied


def _trainings(plan: Plan) -> list[Work]:
    return list(plan.models.values())


def _findings(plan: Plan) -> list[Work]:
    return [*plan.measures.values(), *plan.studies.values()]


def _share(asked: Asked, plan: Plan, workers: int, devices: Sequence[str], watch: Watch | None) -> None:
    """Let several processes make the plan's parts: first all models, then what is measured on them."""
    of = len(_trainings(plan)) + len(_findings(plan))
    number = 0
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for part in (_trainings, _findings):
            waiting = {
                pool.submit(_make_elsewhere, asked, part.__name__, place, devices[place % len(devices)]): what
                for place, what in enumerate(part(plan))
            }
            try:
                for done in as_completed(waiting):
                    done.result()
                    _tell(watch, number, of, waiting[done])
                    number += 1
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _make_elsewhere(asked: Asked, part: str, place: int, device: str) -> None:
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    plan = asked.plan()
    work = {"_trainings": _trainings, "_findings": _findings}[part](plan)
    _make(plan, work[place], device)


def _tell(watch: Watch | None, number: int, of: int, what: Work) -> None:
    if watch is not None:
        watch(Step(number, of, _called(what)))


def _called(what: Work) -> str:
    if isinstance(what, Model):
        return f"training {what.recipe.name} (seed {what.seed})"
    if isinstance(what, Figured):
        return f"measuring {what.model.recipe.name}: {type(what.measure).__name__.lower()}"
    return f"studying {what.model.recipe.name}: {what.figure.study}"


def _make(plan: Plan, what: Work, device: str) -> None:
    if isinstance(what, Model):
        _trained(plan, what, device)
    elif isinstance(what, Figured):
        _measured(plan, what, device)
    else:
        _studied(plan, what, device)


def _trained(plan: Plan, model: Model, device: str) -> torch.nn.Module:
    given = None
    if plan.scale.tested is not None:
        images = images_of(model.recipe, plan.data_dir, device)
        given = images["train"], images["test"].first(plan.scale.tested)
    recipe = model.recipe
    if model.fixed:
        recipe = _beside(recipe, tuple(_trained(plan, one, device) for one in model.fixed))
    return train(recipe, seed=model.seed, run_dir=model.folder, data_dir=plan.data_dir, data=given, device=device).model


def _beside(recipe: Recipe, models: tuple[torch.nn.Module, ...]) -> Recipe:
    """Give a recipe's ensemble adversary the models that it names."""
    training, objective = recipe.training, recipe.training.objective
    if not isinstance(objective.adversary, EnsembleAdversary):
        return recipe
    objective = replace(objective, adversary=replace(objective.adversary, models=models))
    return replace(recipe, training=replace(training, objective=objective))


def _measured(plan: Plan, what: Figured, device: str) -> Measured:
    surrogate = None if what.surrogate is None else _trained(plan, what.surrogate, device)
    target = Target(
        _trained(plan, what.model, device),
        images_of(what.model.recipe, plan.data_dir, device),
        what.threat,
        Subject(what.model.recipe.name, str(what.model.folder)),
        surrogate,
    )
    return measure(what.measure, target, n=what.n, seed=plan.seed, run_dir=what.folder)


def _studied(plan: Plan, what: Studied, device: str) -> None:
    images = images_of(what.model.recipe, plan.data_dir, device)["test"]
    shown = images.first(min(what.n, len(images)))
    settings: dict[str, Any] = dict(what.settings)
    diagnose(
        _trained(plan, what.model, device),
        shown.pixels(),
        shown.labels,
        what.model.recipe.threat,
        studies=(what.figure.study,),
        seed=plan.seed,
        run_dir=what.folder,
        ids=shown.ids,
        subject=Subject(what.model.recipe.name, str(what.model.folder), images.name, images.split, images.classes),
        **settings,
    )


def _compared(plan: Plan, one: Table | Figure, asked: Asked, device: str) -> Comparison:
    """Return an experiment with its figures, all of which are recorded by now, and leave its record."""
    folder = plan.root / plan.scale.name / one.name
    make_folder(folder)
    relative = partial(os.path.relpath, start=folder)
    rows = _rows(plan, one, relative)
    found = _cells(plan, one, asked, device, relative) if isinstance(one, Table) else []
    published = dict.fromkeys(cell.column for cell in found if cell.column not in _modern(one, asked))
    comparison = Comparison(
        name=one.name,
        paper=one.paper,
        printed=one.printed,
        title=one.title,
        reading=one.reading,
        scale=plan.scale.name,
        scale_summary=plan.scale.summary,
        seed=plan.seed,
        columns=list(published),
        modern=[column for column in _modern(one, asked) if any(cell.column == column for cell in found)],
        by=one.by if isinstance(one, Table) else "column",
        rows=rows,
        cells=found,
        drawings=[_drawn(one, rows, folder)] if isinstance(one, Figure) else [],
        command=f"unmask reproduce {one.name} --scale {plan.scale.name} --seed {plan.seed}",
        version=code_version(),
        packages=packages(),
        hardware=hardware(torch.device(device)),
    )
    write_comparison(folder, comparison)
    return comparison


def _modern(one: Table | Figure, asked: Asked) -> tuple[str, ...]:
    if isinstance(one, Figure) or one.by == "row":
        return ()
    return tuple(name for name in one.modern if asked.modern is None or name in asked.modern)


def _rows(plan: Plan, one: Table | Figure, relative: Callable[[Path], str]) -> list[RowEntry]:
    recipes = {row: recipe for row, (recipe, _) in one.rows().items()} if isinstance(one, Table) else one.recipes()
    found = []
    for row, recipe in recipes.items():
        model = plan.model(recipe)
        run = relative(plan.studied(one, recipe).folder) if isinstance(one, Figure) else ""
        found.append(
            RowEntry(row=row, recipe=recipe.name, model=relative(model.folder), trained=_words(model), run=run)
        )
    return found


def _drawn(figure: Figure, rows: Sequence[RowEntry], folder: Path) -> str:
    """Draw a figure from the studies of its rows; returns the file's name."""
    panels = [
        panel
        for row in rows
        for panel in panels_of(figure.kind, load_recorded(folder / row.run), folder / row.run, row.row)
    ]
    return save(draw(figure.kind, panels), folder / f"figure.{DRAWN}", DRAWN).name


def _words(model: Model) -> str:
    recipe, training = model.recipe, model.recipe.training
    images = "all images" if recipe.images is None else f"{recipe.images:,} images"
    return (
        f"{recipe.architecture} on {recipe.data}, {images}, {training.epochs} epochs of batches of "
        f"{training.batch_size}, {training.optimizer.name} {training.rate:g}, seed {model.seed}"
    )


def _cells(plan: Plan, table: Table, asked: Asked, device: str, relative: Callable[[Path], str]) -> list[CellEntry]:
    claims = {(claim.row, claim.column): claim for _, each in table.rows().values() for claim in each}
    found = []
    for (row, column), recipe, one in cells(table, asked.modern):
        claim = claims.get((row, column))
        published, doubt = (None, "") if claim is None else (claim.value, claim.doubt)
        cell = CellEntry(row=row, column=column, published=published, doubt=doubt)
        what = plan.measured(recipe, one)
        if what is None:
            found.append(cell.model_copy(update={"note": "no surrogate"}))
            continue
        got = _measured(plan, what, device)
        figures = {"measured": got.share, "interval": got.interval, "n": got.n, "evaluations": got.evaluations}
        found.append(cell.model_copy(update={**figures, "run": relative(got.run)}))
    return found
