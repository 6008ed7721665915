from __future__ import annotations

from collections.abc import Iterator

import pytest

from unmask.recipes import RECIPES
from unmask.recipes.tables import EXPERIMENTS


@pytest.fixture(autouse=True)
def registries_as_they_were() -> Iterator[None]:
    """Forget the recipes and tables that a page registers."""
    kept = [(registry, dict(registry)) for registry in (RECIPES, EXPERIMENTS)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]
