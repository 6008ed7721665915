"""Where models and measurements are kept: under names that their settings decide, so that equals are made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from unmask.environment import code_version
from unmask.recipes import Recipe
from unmask.recipes.tables import Figure, Measure, describe
from unmask.threat import ThreatModel

NAMES = ("name", "threat", "usual_attack")  # what a training does not depend on


def model_folder(root: Path, recipe: Recipe, seed: int) -> Path:
    """Return where the model of a recipe and a seed is kept; recipes that train alike share it."""
    settings = {key: value for key, value in recipe.describe().items() if key not in NAMES}
    words = f"{Path(recipe.data).name}-{Path(recipe.architecture).name}".replace(":", "-")
    return root / "models" / f"{words}-{_digest(settings, seed)}"


def measure_folder(
    model: Path, measure: Measure, threat: ThreatModel, n: int, seed: int, surrogate: Path | None
) -> Path:
    """Return where one measurement of the model in `model` is kept, on n images under a threat."""
    crafted = None if surrogate is None else surrogate.name
    settings = [describe(measure), threat.describe(), n, crafted, code_version()]
    kind = type(measure).__name__.lower()
    return model.parent.parent / "measures" / model.name / f"{kind}-{_digest(settings, seed)}"


def study_folder(
    model: Path, figure: Figure, settings: Mapping[str, object], threat: ThreatModel, n: int, seed: int
) -> Path:
    """Return where one study of the model in `model` is kept."""
    digest = _digest([dict(settings), threat.describe(), n, code_version()], seed)
    return model.parent.parent / "studies" / model.name / f"{figure.study}-{digest}"


def _digest(settings: object, seed: int) -> str:
    return hashlib.sha256(json.dumps([settings, seed], sort_keys=True, default=str).encode()).hexdigest()[:12]
