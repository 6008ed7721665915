"""The seeds' tables and figures: what each column, or row, of a table measures, and which study a figure draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unmask.errors import RecipeError, unknown
from unmask.recipes.recipe import RECIPES, Claim, Recipe, find_recipe

Criterion = Literal["cross_entropy", "margin"]
Aim = Literal["untargeted", "random", "least_likely"]


@dataclass(frozen=True)
class Accuracy:
    """The share of images, of a split, that the model has right as they are: the label among its `top` answers."""

    split: Literal["train", "test"] = "test"
    top: int = 1


@dataclass(frozen=True)
class Attacked:
    """The accuracy under one attack: `steps` along the sign of the gradient of `loss`.

    `step_size` is in pixels (None: 4 eps / (3 steps)), and `eps`, in the words of `Linf`, replaces the recipe's. With
    `transferred` the images are crafted on the recipe's surrogate and never adapted to the attacked model. `aim` says
    which wrong class is descended to, if any; the label must be among the `top` answers that are left.
    """

    steps: int
    step_size: float | None = None
    loss: Criterion = "cross_entropy"
    start: Literal["uniform", "clean"] = "uniform"
    restarts: int = 1
    eps: str | None = None
    aim: Aim = "untargeted"
    top: int = 1
    transferred: bool = False


@dataclass(frozen=True)
class Audited:
    """The robust accuracy that an audit of this budget, or plan, leaves."""

    budget: str = "standard"


@dataclass(frozen=True)
class Predicted:
    """The accuracy that Shafahi et al.'s Equation 4 predicts from the logit gap and the gradient gap."""


Measure = Accuracy | Attacked | Audited | Predicted


def fgsm(eps: float, **settings: Any) -> Attacked:
    """Return one step of `eps` from the clean image."""
    return Attacked(steps=1, step_size=eps, start="clean", **settings)


MODERN: Mapping[str, Measure] = {
    "audit": Audited("standard"),
    "AutoAttack": Audited("autoattack-standard"),
    "transfer": Attacked(steps=40, transferred=True),
}


@dataclass(frozen=True)
class Table:
    """A table of a seed: its rows are the recipes that hold claims for (`paper`, `printed`), in their order.

    `measures` says how each column is measured; with `by` "row" each row, where rows are attacks on one model. The
    name is the seed's number and the table's ("001/table2"). `reading` says in a paragraph what the table shows.
    `modern` are the columns that are measured beside the published ones.
    """

    name: str
    paper: str
    printed: str
    title: str
    measures: Mapping[str, Measure]
    reading: str
    by: Literal["column", "row"] = "column"
    modern: Mapping[str, Measure] = field(default_factory=lambda: MODERN)

    def rows(self) -> dict[str, tuple[Recipe, tuple[Claim, ...]]]:
        """Return recipe and claims by the row as it is printed, in order of the registry."""
        found: dict[str, tuple[Recipe, tuple[Claim, ...]]] = {}
        for make in RECIPES.values():
            recipe = make()
            for claim in recipe.claims:
                if (claim.paper, claim.table) == (self.paper, self.printed):
                    _, earlier = found.get(claim.row, (recipe, ()))
                    found[claim.row] = recipe, (*earlier, claim)
        return found

    def measure(self, claim: Claim) -> Measure:
        """Return how a claim of this table is measured again."""
        return self.measures[claim.row if self.by == "row" else claim.column]


@dataclass(frozen=True)
class Figure:
    """A figure of a seed: one `study` (of `unmask diagnose`) of each recipe's model, drawn as a `kind` of figure.

    `models` are recipes by the name under which they are drawn; `settings` are those of `unmask.audit.diagnose`;
    `reading` says in a paragraph what is to be seen.
    """

    name: str
    paper: str
    printed: str
    title: str
    study: str
    kind: str
    models: Mapping[str, str]
    reading: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipes by the name under which they are drawn."""
        return {label: find_recipe(name) for label, name in self.models.items()}


Experiment = Table | Figure

EXPERIMENTS: dict[str, Experiment] = {}


def experiment(one: Experiment) -> Experiment:
    """Register a table or figure under its name."""
    if one.name in EXPERIMENTS:
        raise RecipeError(f"Two tables or figures are called '{one.name}'.")
    EXPERIMENTS[one.name] = one
    return one


def find_experiments(words: str) -> tuple[Experiment, ...]:
    """Return the experiment of that name, or all whose names begin with it and a slash; "all" means every one.

    Raises RecipeError, with a suggestion, where there is none.
    """
    found = [one for name, one in EXPERIMENTS.items() if words in ("all", name) or name.startswith(f"{words}/")]
    if not found:
        raise RecipeError(unknown("table or figure", words, [*EXPERIMENTS, "all"]))
    return tuple(found)


def describe(measure: Measure) -> dict[str, object]:
    """Return a measure as plain values, for records and fingerprints."""
    return {"kind": type(measure).__name__, **asdict(measure)}
