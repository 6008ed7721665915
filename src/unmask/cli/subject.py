"""What is audited or diagnosed, as words of the command line say it: the threat model, the images, the run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli.verify import WITH_WEIGHTS
from unmask.errors import AuditError, DataError

if TYPE_CHECKING:
    from unmask.audit import Subject
    from unmask.data import DataSet
    from unmask.models import LoadedModel
    from unmask.threat import ThreatModel


def threat_of(loaded: LoadedModel, eps: str | None, norm: str | None) -> ThreatModel:
    """Return the threat model that the options name, else the model card's; raises AuditError where neither does."""
    from unmask.threat import ThreatModel, threat_model

    card = (loaded.card or {}).get("threat")
    if eps is None and not card:
        raise AuditError(
            "The model has no card that names an eps. Give one: --eps 8/255 (and --norm if it is not linf)."
        )
    if eps is None:
        threat = ThreatModel.from_description(card or {})
        if norm is not None and norm.lower() != threat.norm:
            raise AuditError(f"The model card's eps is for {threat}; for --norm {norm} give an --eps as well.")
        return threat
    return threat_model(norm or (card["norm"] if card else "linf"), eps)


def images_of(
    loaded: LoadedModel,
    data: str | None,
    split: str,
    n: int | None,
    sample: bool,
    seed: int,
    data_dir: Path | None,
    download: bool,
) -> DataSet:
    """Return the first n images, or n at random, of the named data set, else the model card's; raises DataError."""
    from unmask.data import load_data

    name = data or (loaded.card or {}).get("data")
    if name is None:
        raise DataError(
            "The model has no card that names its data. Give a data set: --data mnist, --data images.npz, ..."
        )
    images = load_data(str(name), split, data_dir=data_dir, download=download)
    if n is None:
        return images
    return images.sample(n, seed) if sample else images.first(n)


def subject_of(loaded: LoadedModel, model: str, weights: Path | None, images: DataSet) -> Subject:
    """Return how records call a model and its images; `model` and `weights` are the user's words for it."""
    from unmask.audit import Subject

    source = model if weights is None else f"{model}{WITH_WEIGHTS}{weights}"
    return Subject(loaded.name, source, images.name, images.split, images.classes)


def run_folder(*words: str) -> Path:
    """Return the folder under runs/ that is named after the words, as far as a path can hold them."""
    return Path("runs") / "-".join(_plain(word) for word in words if word)


def _plain(word: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in word).strip("-")


def data_words(loaded: LoadedModel, images: DataSet, threat: ThreatModel) -> Iterable[str]:
    """Return the words for model, images and threat in a run's folder name."""
    return Path(loaded.name).name, images.name, images.split, str(len(images)), str(threat)
