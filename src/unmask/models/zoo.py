"""The trained models that come with the package."""

from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError, ModelError, unknown
from unmask.models.cards import read_card

WEIGHTS = Path(__file__).parent / "weights"

CARD_KEYS = (
    "name",
    "architecture",
    "classes",
    "data",
    "threat",
    "recipe",
    "objective",
    "training",
    "figures",
    "sha256",
    "command",
    "hardware",
)


def zoo_names() -> tuple[str, ...]:
    """Return the names of the packaged models, sorted; each has weights and a card."""
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.safetensors") if path.with_suffix(".json").is_file()))


def zoo_path(name: str) -> Path:
    """Return the path of a packaged model's weights; raises ModelError for an unknown name."""
    if name not in zoo_names():
        raise ModelError(unknown("packaged model", name, zoo_names()))
    return WEIGHTS / f"{name}.safetensors"


def zoo_card(name: str) -> dict[str, Any]:
    """Return a packaged model's card: network, data, threat, training, figures, checksum, command and hardware.

    Raises ModelError for an unknown name and CheckpointError for a card that is damaged or incomplete.
    """
    path = zoo_path(name).with_suffix(".json")
    card = read_card(path)
    missing = [key for key in CARD_KEYS if key not in card]
    if missing:
        raise CheckpointError(f"The model card {path} lacks {', '.join(missing)}. Install the package again.")
    return card
