"""`unmask list`: what exists by name."""

from __future__ import annotations

from typing import Annotated

import typer

from unmask.cli.console import print_json, print_table
from unmask.cli.options import DataDir, Json
from unmask.errors import UnmaskError, unknown

KINDS = ("models", "recipes", "tables", "scales", "data", "attacks", "budgets", "moves", "architectures", "losses")


def list_names(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", autocompletion=lambda: list(KINDS))],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List what can be named: packaged models, recipes, the seeds' tables and figures, scales, data sets, attacks,
    budgets, moves, architectures, losses.

    Examples:

        unmask list models

        unmask list recipes --json
    """
    if kind not in KINDS:
        raise UnmaskError(unknown("list", kind, KINDS))
    columns, rows = {
        "models": _models,
        "recipes": _recipes,
        "tables": _tables,
        "scales": _scales,
        "data": lambda: _data(data_dir),
        "attacks": _attacks,
        "budgets": _budgets,
        "moves": _moves,
        "architectures": _architectures,
        "losses": _losses,
    }[kind]()
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table("", columns, rows)


Listing = tuple[list[str], list[tuple[str, ...]]]


def _models() -> Listing:
    from unmask.models import zoo_card, zoo_names

    cards = [zoo_card(name) for name in zoo_names()]
    return ["name", "data", "threat", "clean", "claimed", "measured"], [
        (
            card["name"],
            card["data"],
            f"{card['threat']['norm']} {card['threat']['eps']}",
            *(
                f"{100 * card['figures'][key]:.1f}%"
                for key in ("clean_accuracy", "claimed_accuracy", "robust_accuracy")
            ),
        )
        for card in cards
    ]


def _recipes() -> Listing:
    from unmask.recipes import RECIPES

    recipes = [make() for make in RECIPES.values()]
    return ["name", "data", "architecture", "threat", "what"], [
        (recipe.name, recipe.data, recipe.architecture, str(recipe.threat), recipe.summary) for recipe in recipes
    ]


def _tables() -> Listing:
    from unmask.recipes.tables import EXPERIMENTS, Table

    return ["name", "paper", "printed as", "title", "rows"], [
        (one.name, one.paper, one.printed, one.title, str(len(one.rows() if isinstance(one, Table) else one.models)))
        for one in EXPERIMENTS.values()
    ]


def _scales() -> Listing:
    from unmask.recipes.scales import SCALES

    return ["name", "what"], [(scale.name, scale.summary) for scale in SCALES.values()]


def _data(data_dir: object) -> Listing:
    from pathlib import Path

    from unmask.data import DATA_SETS, available

    where = Path(str(data_dir)) if data_dir else None
    return ["name", "here", "what"], [
        (name, "yes" if available(name, where) else "no", summary) for name, summary in DATA_SETS.items()
    ]


def _attacks() -> Listing:
    from unmask.attacks import ATTACKS

    return ["name", "what"], [(name, _first_line(attack)) for name, attack in ATTACKS.items()]


def _budgets() -> Listing:
    from unmask.audit import BUDGETS, PLANS

    adaptive = [
        (name, f"{one.per_survivor:,.0f} evaluations per survivor", f"adaptive: {one.summary}")
        for name, one in BUDGETS.items()
    ]
    number = ("N", "N evaluations per image", "adaptive: as much as that buys")
    fixed = [(name, ", ".join(a.name for a in make(10)), _first_line(make)) for name, make in PLANS.items()]
    return ["name", "what it spends", "what"], [*adaptive, number, *fixed]


def _moves() -> Listing:
    from unmask.attacks.straight_through import Reach
    from unmask.audit.budgets import moves
    from unmask.threat import Linf

    found = moves(10, Linf("8/255"), Reach(own=True, blocked=("any",)))
    return ["name", "evaluations", "what"], [(one.name, str(one.cost(0)), one.description) for one in found]


def _architectures() -> Listing:
    from unmask.models import ARCHITECTURES

    return ["name", "input", "what"], [
        (one.name, "x".join(map(str, one.input_shape)), one.summary) for one in ARCHITECTURES.values()
    ]


def _losses() -> Listing:
    from unmask.losses import LOSSES

    return ["name", "what"], [(name, _first_line(loss)) for name, loss in LOSSES.items()]


def _first_line(function: object) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]
