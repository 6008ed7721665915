"""Reproducing tables and figures: train what is missing, measure, and set it beside what was published."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from unmask.audit import Subject, diagnose
from unmask.contract import usable_device
from unmask.errors import RecipeError
from unmask.ledger.comparison import Comparison
from unmask.models.callables import import_own
from unmask.recipes import Recipe, train
from unmask.recipes.scales import find_scale
from unmask.recipes.tables import find_experiments
from unmask.reproduction.comparing import compare
from unmask.reproduction.images import images_of
from unmask.reproduction.measuring import Measured, Target, measure
from unmask.reproduction.planning import Figured, Model, Plan, Studied, make_plan
from unmask.training import EnsembleAdversary


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
    if workers == 1:
        everything = [what for stage in stages(plan) for what in stage]
        for number, what in enumerate(everything):
            _tell(watch, number, len(everything), what)
            _make(plan, what, devices[0])
    else:
        _share(asked, plan, workers, devices, watch)
    return [compare(plan, one, asked.modern, devices[0]) for one in plan.experiments]


Work = Model | Figured | Studied


def stages(plan: Plan) -> list[list[Work]]:
    """Return a plan's parts in stages, each of which needs earlier ones alone: models, those beside them, figures."""
    models = list(plan.models.values())
    return [
        [model for model in models if not model.fixed],
        [model for model in models if model.fixed],
        [*plan.measures.values(), *plan.studies.values()],
    ]


def _share(asked: Asked, plan: Plan, workers: int, devices: Sequence[str], watch: Watch | None) -> None:
    """Let several processes make the parts of each stage."""
    found = stages(plan)
    number, of = 0, sum(map(len, found))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for stage, parts in enumerate(found):
            waiting = {
                pool.submit(_make_elsewhere, asked, stage, place, devices[place % len(devices)]): what
                for place, what in enumerate(parts)
            }
            try:
                for done in as_completed(waiting):
                    done.result()
                    _tell(watch, number, of, waiting[done])
                    number += 1
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _make_elsewhere(asked: Asked, stage: int, place: int, device: str) -> None:
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    plan = _plan(asked)
    _make(plan, stages(plan)[stage][place], device)


@cache
def _plan(asked: Asked) -> Plan:
    return asked.plan()


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
        what.threat,
        studies=(what.figure.study,),
        seed=plan.seed,
        run_dir=what.folder,
        ids=shown.ids,
        subject=Subject(what.model.recipe.name, str(what.model.folder), images.name, images.split, images.classes),
        **settings,
    )
