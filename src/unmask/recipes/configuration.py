"""Configurations: a recipe by name or from a TOML file, with settings changed on the way, and as a file again.

A file holds the fields of `Recipe`, `Training` and `Objective` side by side, the seed, and, if it likes, the name of a
`recipe` whose settings it starts from.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from unmask.errors import RecipeError, unknown
from unmask.recipes.recipe import Recipe, find_recipe
from unmask.recipes.settings import (
    KIND,
    NOTHING,
    Place,
    Reader,
    Setting,
    Table,
    plain_threat,
    settings_of,
    written_fields,
)
from unmask.recipes.toml import inline, toml
from unmask.threat import ThreatModel
from unmask.training import Objective, Training
from unmask.training.optimizers import OPTIMIZERS, Optimizer

LEVELS: tuple[type[Any], ...] = (Recipe, Training, Objective)
OMITTED = ("training", "objective", "claims")
BASE, SEED = "recipe", "seed"
NAMES = (KIND, "name")  # what these say decides which other settings a table has


@dataclass(frozen=True)
class Configuration:
    """A recipe with all its settings, and the seed of its training."""

    recipe: Recipe
    seed: int = 0

    def table(self) -> Table:
        """Return all settings as plain values. Raises RecipeError for parts that no plain value can name."""
        recipe, levels = self.recipe, (self.recipe, self.recipe.training, self.recipe.training.objective)
        found: Table = {SEED: self.seed}
        for level in levels:
            found |= written_fields(level, recipe.threat, without=OMITTED)
        order = [*settings_of(Recipe), SEED]
        return {
            name: plain_threat(recipe.threat) if name == "threat" else found[name]
            for name in sorted(found, key=lambda name: order.index(name) if name in order else len(order))
        }

    def toml(self) -> str:
        """Return the text of a file that `configure` reads back to the very same training; raises RecipeError."""
        return toml(self.table())


def configure(source: str | Path, changes: Mapping[str, Table] | None = None) -> Configuration:
    """Return the configuration of a recipe's name or a TOML file (a path that ends in .toml), with changes on top.

    `changes` are tables of settings by where they came from, in words for errors. Lists are replaced whole unless a
    change names their entries by number or kind; a table whose kind changes starts anew. Other data than the recipe's
    own are trained on whole, unless `held_out` is given too. Raises RecipeError, naming file and table, for settings
    that are unknown, missing, of a wrong type, or make no sense together.
    """
    if not changes and not _is_file(source):
        return Configuration(find_recipe(str(source)))
    given = {**_start(source), **(changes or {})}
    first, *others = given.values()
    layers = [first, reduce(_merged, others, Table())]
    reader = Reader(partial(_origin, _origins(given), ", ".join(given)))
    started = first.pop(BASE, None)
    base = None if started is None else reader.attempt(lambda: find_recipe(str(started)), (BASE,))
    table = {} if base is None else Configuration(base).table()
    for layer in layers:
        for name, value in layer.items():
            table[name] = reader.attempt(partial(_laid, table.get(name), value), (name,))
    if base is not None and table.get("data") != base.data and not any("held_out" in layer for layer in layers):
        table["held_out"] = 0
    return _made(reader, table, () if base is None else base.claims)


def setting(text: str) -> Table:
    """Return the table that `key.key=VALUE` means; the value is TOML, or else a text as it stands.

    Raises RecipeError for words without a key or a value.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {text}: expected KEY=VALUE with a key of the file, such as --set optimizer.lr=1e-4.")
    table: Any = _value(value.strip())
    for key in reversed(keys):
        table = {key: table}
    made: Table = table
    return made


def command(configuration: Configuration) -> str:
    """Return the command that trains a registered recipe with these settings; raises RecipeError if there is none."""
    name = configuration.recipe.name
    base = Configuration(find_recipe(name)).table()
    differing = {key: value for key, value in configuration.table().items() if key != SEED}
    words = ["unmask", "train", name]
    for key, value in _differences(base, differing):
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, "--seed", str(configuration.seed)])


def _made(reader: Reader, table: Table, claims: tuple[Any, ...]) -> Configuration:
    known = {SEED: Setting(int, False)}
    for level in LEVELS:
        known |= {name: one for name, one in settings_of(level).items() if name not in OMITTED}
    reader.check_keys(table, [*known, *({BASE} - table.keys())], ())
    missing = [name for name, one in known.items() if one.required and name not in table]
    if missing:
        raise reader.error((), f"{', '.join(missing)} missing: give them, or a {BASE} to start from.")
    threat = reader.read(ThreatModel, table["threat"], ("threat",))
    within = replace(reader, threat=threat)
    values = {name: within.read(known[name].hint, value, (name,)) for name, value in table.items()}
    _check_optimizer(within, values.get("optimizer"))

    def parts(level: type[Any]) -> Table:
        return {name: values[name] for name in settings_of(level) if name in values}

    def build() -> Recipe:
        training = Training(Objective(**parts(Objective)), **parts(Training))
        return Recipe(**parts(Recipe), training=training, claims=claims)

    return Configuration(within.attempt(build, ()), values.get(SEED, 0))


def _check_optimizer(reader: Reader, optimizer: Optimizer | None) -> None:
    if optimizer is None:
        return
    place, own = ("optimizer", "settings"), ("params", *settings_of(Optimizer))
    known = [name for name in signature(OPTIMIZERS[optimizer.name]).parameters if name not in own]
    reader.check_keys(dict(optimizer.settings), known, place)
    try:
        optimizer.build(nn.Linear(1, 1))
    except (TypeError, ValueError) as error:
        raise reader.error(place, f"torch refuses them ({error}).") from error


def _is_file(source: str | Path) -> bool:
    return str(source).endswith(".toml")


def _start(source: str | Path) -> dict[str, Table]:
    if not _is_file(source):
        return {f"recipe {source}": {BASE: str(source)}}
    path = Path(source)
    return {str(source): {"name": path.stem, "summary": f"settings of {path.name}", **_read(path)}}


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"There is no file {path}. Check the path, or name a recipe (`unmask list recipes`)."
        ) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}. Mend it there.") from error


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _laid(old: object, new: object) -> object:
    """Lay a setting over an older one."""
    if isinstance(old, dict) and isinstance(new, dict):
        if any(name in new and new[name] != old.get(name) for name in NAMES):
            return new
        return {**old, **{name: _laid(old.get(name), value) for name, value in new.items()}}
    return _merged_entries(old, new, _laid) if isinstance(old, list) and isinstance(new, dict) else new


def _merged(old: Table, new: Table) -> Table:
    """Collect changes: neither table is complete."""

    def both(one: object, other: object) -> object:
        if isinstance(one, dict) and isinstance(other, dict):
            return _merged(one, other)
        return _merged_entries(one, other, both) if isinstance(one, list) and isinstance(other, dict) else other

    return {**old, **{name: both(old[name], value) if name in old else value for name, value in new.items()}}


def _merged_entries(old: list[Any], new: Table, merge: Callable[[object, object], object]) -> list[Any]:
    """Merge into those entries of a list that the keys name by number or kind."""
    changes = {_entry(old, key): part for key, part in new.items()}
    return [merge(one, changes[number]) if number in changes else one for number, one in enumerate(old)]


def _entry(entries: list[Any], key: str) -> int:
    kinds = [one.get(KIND) if isinstance(one, dict) else None for one in entries]
    names = {str(number): number for number in range(len(entries))}
    names |= {str(kind): kinds.index(kind) for kind in kinds if kind is not None and kinds.count(kind) == 1}
    if key not in names:
        raise RecipeError(unknown("entry", key, names))
    return names[key]


def _places(value: object, place: Place = ()) -> list[Place]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(one for name, part in inner for one in _places(part, (*place, str(name))))]


def _origins(given: Mapping[str, Table]) -> dict[Place, str]:
    """Return, by path, the words for where a setting was given last."""
    return {place: words for words, table in given.items() for place in _places(table)}


def _origin(origins: Mapping[Place, str], everything: str, place: Place) -> str:
    known = (origins[place[:length]] for length in range(len(place), 0, -1) if place[:length] in origins)
    return next(known, everything)


def _differences(old: object, new: object, path: str = "") -> list[tuple[str, str]]:
    if isinstance(old, dict) and isinstance(new, dict) and all(old.get(name) == new.get(name) for name in NAMES):
        below = f"{path}." if path else ""
        gone = [(f"{below}{name}", NOTHING) for name in old if name not in new and name != SEED]
        return gone + [one for name in new for one in _differences(old.get(name), new[name], f"{below}{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [one for number, part in enumerate(new) for one in _differences(old[number], part, f"{path}.{number}")]
    if old == new:
        return []
    return [(path, new if isinstance(new, str) and _value(new) == new else inline(new))]
