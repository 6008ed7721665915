"""Model cards: the JSON beside a file of weights that says which network they belong to."""

import json
import re
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError, unknown
from unmask.models.registry import ARCHITECTURES, MOST_CLASSES


def read_card(path: Path) -> dict[str, Any]:
    """Return the model card in `path`: an `architecture`, a number of `classes`, and maybe a `sha256`.

    The architecture is a known one, or a user's own `module:function`, which nothing here runs.

    Raises CheckpointError where the file cannot be read, is not a JSON object, or one of these is not valid.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"The model card {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The model card {path} is not valid JSON ({error}). Restore it from its source."
        ) from error
    if not isinstance(card, dict):
        raise CheckpointError(f"The model card {path} holds a {type(card).__name__}; expected a JSON object.")
    _check_architecture(card.get("architecture"), path)
    _check_classes(card.get("classes"), path)
    _check_checksum(card, path)
    return card


def find_card(weights: Path) -> Path | None:
    """Return the card that belongs to a file of weights: `<stem>.json`, else `model.json`, else None."""
    candidates = (weights.with_suffix(".json"), weights.with_name("model.json"))
    return next((path for path in candidates if path.is_file()), None)


def _check_architecture(name: object, path: Path) -> None:
    if not isinstance(name, str):
        raise CheckpointError(
            f'The model card {path} has no "architecture"; expected one of {", ".join(sorted(ARCHITECTURES))}.'
        )
    if name not in ARCHITECTURES and ":" not in name:
        raise CheckpointError(f"The model card {path} cannot be used. {unknown('architecture', name, ARCHITECTURES)}")


def _check_classes(classes: object, path: Path) -> None:
    if type(classes) is not int or not 2 <= classes <= MOST_CLASSES:
        raise CheckpointError(
            f'The model card {path} says "classes": {json.dumps(classes)}; expected a whole number from 2 to '
            f"{MOST_CLASSES}."
        )


def _check_checksum(card: dict[str, Any], path: Path) -> None:
    checksum = card.get("sha256", "0" * 64)
    if not isinstance(checksum, str) or re.fullmatch("[0-9a-f]{64}", checksum) is None:
        raise CheckpointError(
            f'The model card {path} says "sha256": {json.dumps(checksum)}; expected 64 lower-case hexadecimal digits, '
            "the checksum of the file of weights."
        )
