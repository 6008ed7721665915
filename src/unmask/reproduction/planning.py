"""What a reproduction consists of: the models to train, what to measure on each, and what all that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unmask.data import available
from unmask.data.registry import DATA_SETS
from unmask.errors import DataError, RecipeError
from unmask.models import zoo_names
from unmask.recipes import Recipe, find_recipe
from unmask.recipes.scales import Scale
from unmask.recipes.tables import MODERN, Accuracy, Attacked, Experiment, Figure, Measure, Predicted, Table
from unmask.reproduction.cache import measure_folder, model_folder, study_folder
from unmask.threat import ThreatModel
from unmask.training import EnsembleAdversary, PgdAdversary, Saturation

APART = 1  # a surrogate is drawn from another seed than what it attacks, so that no model attacks itself
FALLBACK_DATA, FALLBACK_ARCHITECTURE = "digits", "digits-cnn"
AUDIT_COST = {"quick": 100, "standard": 400, "exhaustive": 4_000, "autoattack-standard": 4_000}


@dataclass(frozen=True)
class Model:
    """A model to be trained: a recipe at the scale, the seed, and the folder that its settings name.

    `fixed` are the models that its adversary attacks beside it, to be trained before.
    """

    recipe: Recipe
    seed: int
    folder: Path
    fixed: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Figured:
    """One measurement to be made on a model: the measure at the scale, and the surrogate if it needs one.

    The threat is the row's: rows that train alike share a model, and may still be attacked in different balls.
    """

    model: Model
    measure: Measure
    threat: ThreatModel
    n: int
    surrogate: Model | None
    folder: Path

    @property
    def evaluations(self) -> int:
        """About how many example passes it may take at most."""
        return self.n * _cost(self.measure)


@dataclass(frozen=True)
class Studied:
    """One study to be made of a model, for a figure."""

    model: Model
    figure: Figure
    settings: Mapping[str, object]
    threat: ThreatModel
    n: int
    folder: Path


@dataclass(frozen=True)
class Plan:
    """Everything that experiments need at a scale, each once, models before what is measured on them.

    `instead` names the data, in the words of `load_data`, that take the place of a data set.
    """

    experiments: tuple[Experiment, ...]
    scale: Scale
    seed: int
    root: Path
    data_dir: Path | None
    instead: Mapping[str, str] = field(default_factory=dict)
    models: dict[Path, Model] = field(default_factory=dict)
    measures: dict[Path, Figured] = field(default_factory=dict)
    studies: dict[Path, Studied] = field(default_factory=dict)

    def model(self, recipe: Recipe, apart: int = 0) -> Model:
        """Return the model of a paper's recipe at this scale, and have it trained."""
        scaled = _on_what_is_here(self.scale.recipe(recipe), self.scale, self.data_dir, self.instead)
        seed = self.seed + apart
        fixed = tuple(self.model(find_recipe(name)) for name in _fixed(recipe))
        found = Model(scaled, seed, model_folder(self.root, scaled, seed), fixed)
        return self.models.setdefault(found.folder, found)

    def measured(self, recipe: Recipe, measure: Measure) -> Figured | None:
        """Return a measurement on a recipe's model, and have it made; None without a surrogate that it needs."""
        scaled = self.scale.measure(measure)
        if _transferred(measure) and recipe.surrogate is None:
            return None
        model = self.model(recipe)
        surrogate = self.model(find_recipe(str(recipe.surrogate)), APART) if _transferred(measure) else None
        folder = measure_folder(
            model.folder,
            scaled,
            recipe.threat,
            self.scale.images,
            self.seed,
            None if surrogate is None else surrogate.folder,
        )
        found = Figured(model, scaled, recipe.threat, self.scale.images, surrogate, folder)
        return self.measures.setdefault(folder, found)

    def studied(self, figure: Figure, recipe: Recipe) -> Studied:
        """Return a figure's study of a recipe's model, and have it made."""
        model = self.model(recipe)
        settings = {**figure.settings, **self.scale.study}
        folder = study_folder(model.folder, figure, settings, recipe.threat, self.scale.studied, self.seed)
        found = Studied(model, figure, settings, recipe.threat, self.scale.studied, folder)
        return self.studies.setdefault(folder, found)


def make_plan(
    experiments: Iterable[Experiment],
    scale: Scale,
    *,
    seed: int = 0,
    root: Path,
    data_dir: Path | None = None,
    modern: Sequence[str] | None = None,
    instead: Mapping[str, str] | None = None,
) -> Plan:
    """Return what tables and figures need at a scale.

    `modern` names the columns beside the published ones (None: all), `instead` other data by the name of the data set
    whose place they take.

    Raises RecipeError where a table does not say how a column is measured and for an unknown column, DataError where
    data are missing (the scale "smoke" takes the built-in digits in their place).
    """
    plan = Plan(tuple(experiments), scale, seed, root, data_dir, instead or {})
    _check_columns(modern or (), plan.experiments)
    for one in plan.experiments:
        if isinstance(one, Figure):
            for recipe in one.recipes().values():
                plan.studied(one, recipe)
            continue
        for _, recipe, measure in cells(one, modern):
            plan.measured(recipe, measure)
    return plan


def cells(table: Table, modern: Sequence[str] | None) -> Sequence[tuple[tuple[str, str], Recipe, Measure]]:
    """Return (row, column), the row's recipe and its measure for every figure of a table, published ones first.

    Tables whose rows are attacks on one model have no modern columns.
    """
    rows = table.rows()
    if not rows:
        raise RecipeError(f"{table.name} has no rows: no recipe holds a claim of {table.paper}, {table.printed}.")
    found = [
        ((row, claim.column), recipe, table.measure(claim))
        for row, (recipe, claims) in rows.items()
        for claim in claims
    ]
    beside = {} if table.by == "row" else {k: v for k, v in table.modern.items() if modern is None or k in modern}
    return found + [
        ((row, column), recipe, measure) for row, (recipe, _) in rows.items() for column, measure in beside.items()
    ]


def _check_columns(modern: Sequence[str], experiments: Iterable[Experiment]) -> None:
    known = dict.fromkeys([*MODERN, *(name for one in experiments if isinstance(one, Table) for name in one.modern)])
    for name in modern:
        if name not in known:
            raise RecipeError(
                f"There is no column '{name}' beside the published ones; expected all, none, or some of "
                f"{', '.join(known)}."
            )


def passes_per_image(recipe: Recipe) -> int:
    """Return about how many example passes one image costs in one epoch of a training."""
    objective = recipe.training.objective
    own = 2 * (int(objective.needs("clean") or objective.adversary is None) + int(objective.needs("adversarial")))
    steps = objective.adversary.steps if isinstance(objective.adversary, PgdAdversary) else 0
    return own + 2 * steps


def _fixed(recipe: Recipe) -> tuple[str, ...]:
    """Return the recipes whose models an ensemble adversary names, where they are not in the zoo."""
    adversary = recipe.training.objective.adversary
    named = adversary.surrogates if isinstance(adversary, EnsembleAdversary) else ()
    return tuple(name for name in named if name not in zoo_names())


def _transferred(measure: Measure) -> bool:
    return isinstance(measure, Attacked) and measure.transferred


def _cost(measure: Measure) -> int:
    if isinstance(measure, Accuracy):
        return 1
    if isinstance(measure, Attacked):
        return 2 * measure.steps * measure.restarts + 2
    if isinstance(measure, Predicted):
        return 60
    return AUDIT_COST.get(measure.budget, 1_000)


def _on_what_is_here(recipe: Recipe, scale: Scale, data_dir: Path | None, instead: Mapping[str, str]) -> Recipe:
    if recipe.data in instead:
        return replace(recipe, data=instead[recipe.data], held_out=0)
    if recipe.data not in DATA_SETS or available(recipe.data, data_dir):
        return recipe
    if not scale.falls_back:
        raise DataError(
            f"{recipe.name} needs the data set '{recipe.data}', which was not found. Put it under --data-dir (or "
            "$UNMASK_DATA), or try --scale smoke, which takes the built-in digits instead."
        )
    kept = tuple(one for one in recipe.training.augmentations if not isinstance(one, Saturation))  # the digits are grey
    return replace(
        recipe,
        data=FALLBACK_DATA,
        architecture=FALLBACK_ARCHITECTURE,
        held_out=0,
        training=replace(recipe.training, augmentations=kept),
    )
