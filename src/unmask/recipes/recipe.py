"""A recipe: what is trained how and on what, and what the seeds published for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from unmask.errors import RecipeError, unknown
from unmask.threat import ThreatModel
from unmask.training import Training


@dataclass(frozen=True)
class Claim:
    """A published figure: the paper, its table, row and column, and the value as a share in [0, 1].

    `value` is None where the paper draws it without printing it. `doubt` says why a figure is no target, where the
    paper itself got it wrong.
    """

    paper: str
    table: str
    row: str
    column: str
    value: float | None
    doubt: str = ""


@dataclass(frozen=True)
class Recipe:
    """A model's architecture, data, training, the threat model under which it is audited, and its usual attack.

    `held_out` counts the first images of the official training split that are not trained on, `images` those after
    them that are (None: all). `usual_attack` is the one whose figure is the claim on this data, in the words of `unmask
    audit --claim`. `surrogate` names the recipe on whose model black-box examples are crafted.
    """

    name: str
    summary: str
    data: str
    architecture: str
    threat: ThreatModel
    training: Training
    claims: tuple[Claim, ...] = ()
    held_out: int = 0
    usual_attack: str = "pgd-40"
    images: int | None = None
    surrogate: str | None = None

    def describe(self) -> dict[str, object]:
        """Return the recipe as plain values."""
        return {
            "name": self.name,
            "data": self.data,
            "held_out": self.held_out,
            "images": self.images,
            "architecture": self.architecture,
            "threat": self.threat.describe(),
            "usual_attack": self.usual_attack,
            "training": self.training.describe(),
        }


def published(
    paper: str, table: str, row: str, values: Mapping[str, float | None], doubt: str = ""
) -> tuple[Claim, ...]:
    """Return one Claim per column of a table's row; values in percent, as printed (None: drawn only)."""
    return tuple(
        Claim(paper, table, row, column, None if value is None else round(value / 100, 4), doubt)
        for column, value in values.items()
    )


RECIPES: dict[str, Callable[[], Recipe]] = {}


def recipe(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Register a recipe function under the name of the recipe that it returns."""
    name = function().name
    if name in RECIPES:
        raise RecipeError(f"Two recipes are called '{name}'.")
    RECIPES[name] = function
    return function


def register(one: Recipe) -> None:
    """Register a recipe that is a value: one of many rows of a table. Raises RecipeError if its name is taken."""

    def row() -> Recipe:
        return one

    row.__doc__ = f"{one.summary}."
    recipe(row)


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name. Raises RecipeError with a suggestion if there is none."""
    if name not in RECIPES:
        raise RecipeError(unknown("recipe", name, RECIPES))
    return RECIPES[name]()


def override(recipe: Recipe, *, epochs: int | None = None, batch_size: int | None = None) -> Recipe:
    """Return the recipe with some of its training settings replaced (None: as they are)."""
    given = {name: value for name, value in {"epochs": epochs, "batch_size": batch_size}.items() if value is not None}
    return replace(recipe, training=replace(recipe.training, **given))  # type: ignore[arg-type]
