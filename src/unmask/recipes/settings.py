"""Settings as plain values, and back: read off the fields of dataclasses and the parameters of functions.

A plain value is what a TOML file holds: a truth value, a number, a text, a list or a table. No class and no penalty is
named here, so that a new one can be configured as soon as it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from inspect import Parameter, isabstract, signature
from itertools import product
from types import CodeType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unmask.errors import RecipeError, UnmaskError, unknown
from unmask.recipes.toml import inline
from unmask.threat import ThreatModel, threat_model
from unmask.training import penalties
from unmask.training.penalties import Term

Table = dict[str, Any]
Place = tuple[str, ...]

KIND, SAME, NOTHING = "kind", "same", "none"
FAMILIES = ("Adversary", "Rate")  # last words that say only what kind of thing a class is
SCALARS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
}


@dataclass(frozen=True)
class Setting:
    """One parameter: the type that it is annotated with, and whether it must be given."""

    hint: Any
    required: bool


def settings_of(target: Callable[..., Any]) -> dict[str, Setting]:
    """Return the parameters of a dataclass or function by name, without fields that do not count in comparisons."""
    hints = get_type_hints(target)
    hidden = {field.name for field in fields(target) if not field.compare} if is_dataclass(target) else set()
    found = signature(target).parameters.items()
    return {name: Setting(hints[name], one.default is Parameter.empty) for name, one in found if name not in hidden}


def kinds(hint: Any) -> dict[str, Callable[..., Any]]:
    """Return what makes values of a type, by the word that names it as a `kind`; empty where there is no choice.

    A term is made by a function of `penalties`, a union's value by one of its dataclasses, and an abstract class's by a
    subclass: `CosineRate` is called "cosine", `GaussianNoise` "gaussian-noise".
    """
    if hint is Term:
        return {name: one for name, one in vars(penalties).items() if _makes_terms(name, one)}
    choices = _choices(hint)
    if len(choices) == 1:
        choices = tuple(choices[0].__subclasses__()) if isabstract(choices[0]) else ()
    return {_called(choice): choice for choice in choices if is_dataclass(choice) and isinstance(choice, type)}


@dataclass(frozen=True)
class Reader:
    """Makes values from plain ones; every error says where the plain one came from.

    `origin` gives that place in words for the path of a value. `threat` is what "same" means, and what a part that
    needs a threat model and names none is given.
    """

    origin: Callable[[Place], str]
    threat: ThreatModel | None = None

    def read(self, hint: Any, value: object, place: Place) -> Any:
        """Return a value of the annotated type. Raises RecipeError for what is not of its form or makes no sense."""
        choices = _choices(hint)
        if value == NOTHING and NoneType in get_args(hint):
            return None
        if ThreatModel in choices:
            return self._threat(value, place)
        if kinds(hint):
            return self._chosen(kinds(hint), value, place)
        if len(choices) == 1:
            hint = choices[0]
        if is_dataclass(hint) and isinstance(hint, type):
            return self.made(hint, self.table(value, place), place)
        if get_origin(hint) is Literal:
            return self._word(get_args(hint), value, place)
        if get_origin(hint) is tuple:
            item, *_ = get_args(hint)
            return tuple(self.read(item, one, (*place, str(i))) for i, one in enumerate(self._list(value, place)))
        if get_origin(hint) is Mapping:
            return self.table(value, place)
        return self._scalar(choices, value, place)

    def made(self, target: Callable[..., Any], table: Table, place: Place) -> Any:
        """Call a dataclass or function with the settings of a table."""
        known = settings_of(target)
        self.check_keys(table, known, place)
        values = {name: self.read(known[name].hint, value, (*place, name)) for name, value in table.items()}
        if self.threat is not None and "threat" in known and known["threat"].required:
            values = {"threat": self.threat, **values}
        missing = [
            f"{name} ({_wanted(one.hint)})" for name, one in known.items() if one.required and name not in values
        ]
        if missing:
            raise self.error(place, f"{', '.join(missing)} missing: give all that have no default.")
        return self.attempt(lambda: target(**values), place)

    def check_keys(self, table: Table, known: Sequence[str] | Mapping[str, object], place: Place) -> None:
        """Raise RecipeError for a key that is not known."""
        for name in table:
            if name not in known:
                raise self.error((*place, name), unknown("setting", name, known), of=place)

    def attempt(self, make: Callable[[], Any], place: Place) -> Any:
        """Return what `make` makes; its own errors are raised as RecipeErrors with the place."""
        try:
            return make()
        except UnmaskError as error:
            raise self.error(place, str(error)) from error

    def error(self, place: Place, message: str, of: Place | None = None) -> RecipeError:
        """Return the error for a value: where it came from, the path of it (or `of` what it is part), what is wrong."""
        shown = ".".join(place if of is None else of)
        return RecipeError(f"{self.origin(place)}{', ' if shown else ''}{shown}: {message}")

    def table(self, value: object, place: Place) -> Table:
        """Return the value if it is a table."""
        if not isinstance(value, dict):
            raise self.error(place, f"{_shown(value)} came; expected a table of settings.")
        return value

    def _chosen(self, choices: dict[str, Callable[..., Any]], value: object, place: Place) -> Any:
        table = self.table({KIND: value} if isinstance(value, str) else value, place)
        word = table.get(KIND)
        if word is None:
            raise self.error(place, f"{KIND} missing: give one of {', '.join(sorted(choices))}.")
        if word not in choices:
            raise self.error((*place, KIND), unknown(KIND, str(word), choices), of=place)
        return self.made(choices[str(word)], {name: one for name, one in table.items() if name != KIND}, place)

    def _threat(self, value: object, place: Place) -> ThreatModel:
        if value == SAME and self.threat is not None:
            return self.threat
        if isinstance(value, dict):
            made: ThreatModel = self.made(threat_model, value, place)
            return made
        words = re.fullmatch(r"\s*(\w+)[\s(]\s*([^()]+?)\s*\)?\s*", value) if isinstance(value, str) else None
        if words is None:
            raise self.error(place, f'{_shown(value)} came; expected a threat model such as "Linf 8/255" or "L2 0.5".')
        parsed: ThreatModel = self.attempt(partial(threat_model, words[1], words[2]), place)
        return parsed

    def _word(self, known: tuple[Any, ...], value: object, place: Place) -> object:
        if value not in known:
            raise self.error(place, unknown("choice", str(value), known))
        return value

    def _list(self, value: object, place: Place) -> list[Any]:
        if not isinstance(value, list):
            raise self.error(place, f"{_shown(value)} came; expected a list.")
        return value

    def _scalar(self, hints: tuple[Any, ...], value: object, place: Place) -> object:
        fraction = re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*", value) if isinstance(value, str) else None
        if fraction and float in hints and str not in hints:
            return self.attempt(partial(_quotient, fraction[1], fraction[2]), place)
        fits = tuple(one for hint in hints if hint in SCALARS for one in SCALARS[hint][1])
        if not isinstance(value, fits) or (isinstance(value, bool) and bool not in fits):
            raise self.error(place, f"{_shown(value)} came; expected {' or '.join(map(_wanted, hints))}.")
        return value


def written(hint: Any, value: Any, threat: ThreatModel) -> Any:
    """Return a value as the plain one that `Reader` reads back; settings that are None are left out.

    Raises RecipeError for what no plain value makes: a term or class of one's own.
    """
    if isinstance(value, ThreatModel):
        return SAME if value == threat else plain_threat(value)
    if isinstance(value, Term):
        return _written_term(value, threat)
    if is_dataclass(value) and not isinstance(value, type):
        return _written_kind(hint, type(value)) | written_fields(value, threat)
    if isinstance(value, tuple | list):
        item = next(iter(get_args(hint)), Any)
        return [written(item, one, threat) for one in value]
    if isinstance(value, Mapping):
        return {name: written(Any, one, threat) for name, one in value.items()}
    if isinstance(value, tuple(SCALARS)):
        return value
    raise RecipeError(f"A {type(value).__name__} cannot be written as a setting.")


def written_fields(value: Any, threat: ThreatModel, without: Sequence[str] = ()) -> Table:
    """Return the fields of a dataclass as plain values, but for those that hold nothing."""
    wanted = {name: one.hint for name, one in settings_of(type(value)).items() if name not in without}
    return {
        name: written(hint, getattr(value, name), threat)
        for name, hint in wanted.items()
        if getattr(value, name) not in (None, {})
    }


def plain_threat(threat: ThreatModel) -> str | Table:
    """Return a threat model as a text such as "Linf(0.3)", or as a table if its pixel bounds are not 0 and 1."""
    return str(threat) if (threat.low, threat.high) == (0.0, 1.0) else dict(threat.describe())


def _written_kind(hint: Any, made: type) -> Table:
    choices = kinds(hint)
    for word, choice in choices.items():
        if choice is made:
            return {KIND: word}
    if choices:
        raise RecipeError(f"{made.__name__} is none of {', '.join(choices)}, so it cannot be written as a setting.")
    return {}


def _written_term(term: Term, threat: ThreatModel) -> Table:
    """Find the function in which the term's own is defined, and the arguments that make the very same term."""
    code = getattr(term.function, "__code__", None)
    for kind, function in kinds(Term).items():
        if not isinstance(code, CodeType) or code not in function.__code__.co_consts:
            continue
        given = {"weight": term.weight, **term.settings}
        free = {name: get_args(one.hint) for name, one in settings_of(function).items() if name not in given}
        for words in product(*free.values()):
            table = {**given, **dict(zip(free, words, strict=True))}
            if Reader(str, threat).made(function, table, ()).describe() == term.describe():
                return {KIND: kind, **{name: SAME if one == str(threat) else one for name, one in table.items()}}
    raise RecipeError(f"The term {term.name} is made by no function of unmask.training.penalties.")


def _makes_terms(name: str, one: object) -> bool:
    return getattr(one, "__module__", "") == penalties.__name__ and (
        not name.startswith("_") and callable(one) and getattr(one, "__annotations__", {}).get("return") == "Term"
    )


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union but for None, or the one type itself."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(member for member in members if member is not NoneType)


def _called(made: Any) -> str:
    words = re.findall("[A-Z][a-z0-9]*", made.__name__)
    return "-".join(words[:-1] if words[-1] in FAMILIES and len(words) > 1 else words).lower()


def _quotient(numerator: str, denominator: str) -> float:
    try:
        return float(numerator) / float(denominator)
    except (ValueError, ZeroDivisionError):
        raise RecipeError(f"'{numerator}/{denominator}' came; expected a fraction such as 8/255.") from None


def _wanted(hint: Any) -> str:
    if hint in SCALARS:
        return SCALARS[hint][0]
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return "a list" if get_origin(hint) is tuple else "a table of settings"


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else inline(value)
