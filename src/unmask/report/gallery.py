"""Which images the report shows, and what stands beside each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from unmask.ledger import Run
from unmask.ledger.queries import broken_by, statuses
from unmask.report.pictures import perturbation, picture
from unmask.report.words import NONE, clip, number

BROKEN = 12
SURVIVORS = 4

_T = TypeVar("_T")
_Ids = npt.NDArray[np.int64]
_Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """One picture of a card: its caption, its data URI and what it shows in words."""

    caption: str
    source: str
    text: str


@dataclass(frozen=True)
class Card:
    """One image of the gallery: pictures from original to perturbation, and the facts about it."""

    title: str
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gallery:
    """Images that fell and images that stood; `scale` says how perturbations are drawn."""

    broken: tuple[Card, ...]
    survivors: tuple[Card, ...]
    scale: str


def gallery(run: Run) -> Gallery:
    """Return up to 12 broken images, spread over attacks and classes, and up to 4 that came closest to breaking.

    Raises LedgerError for a damaged file of images.
    """
    fell, stood = _broken_places(run), _closest_survivors(run)
    images = run.inputs()[2] if fell or stood else np.empty(0, dtype=np.float32)
    ids, kept = run.adversarial()
    row = {int(example): place for place, example in enumerate(ids)}
    events = _telling_events(run)

    def card(place: int) -> Card:
        example = int(run.ids[place])
        x_adv = kept[row[example]] if example in row else None
        return _card(run, place, images[place], x_adv, events.get(example))

    return Gallery(tuple(map(card, fell)), tuple(map(card, stood)), _scale_sentence(run))


# ----------------------------------------------------------------------------------------------------------- choosing


def _broken_places(run: Run) -> list[int]:
    attack = broken_by(run)
    order = [entry.attack for entry in run.spec.plan if entry.role != "clean"]
    by_attack = [_over_classes(run, np.flatnonzero(attack == name)) for name in dict.fromkeys(order)]
    return list(islice(_in_turn(by_attack), BROKEN))


def _over_classes(run: Run, places: _Ids) -> list[int]:
    labels = run.labels[places]
    return list(_in_turn([places[labels == label].tolist() for label in np.unique(labels)]))


def _in_turn(groups: Iterable[Iterable[_T]]) -> Iterator[_T]:
    missing = object()
    for item in chain.from_iterable(zip_longest(*groups, fillvalue=missing)):
        if item is not missing:
            yield item  # type: ignore[misc]


def _closest_survivors(run: Run) -> list[int]:
    survived = np.flatnonzero(statuses(run) == "survived")
    best = {example: run.events["margin"][event] for example, event in _telling_events(run).items()}
    margins = np.array([best.get(example, np.nan) for example in run.ids[survived].tolist()], dtype=float)
    order = np.argsort(-np.nan_to_num(margins, nan=-np.inf), kind="stable")
    return [int(place) for place in survived[order[:SURVIVORS]]]


def _telling_events(run: Run) -> dict[int, int]:
    """Return for each attacked example the position of its event of largest margin, the break if there is one."""
    events = run.events
    attacked = np.flatnonzero(events["round"] > 0)
    margins = np.nan_to_num(events["margin"][attacked], nan=-np.inf)
    order = np.lexsort((margins, events["status"][attacked] == "broken", events["id"][attacked]))
    chosen = attacked[order]
    return dict(zip(events["id"][chosen].tolist(), chosen.tolist(), strict=True))  # the last one of each id stays


# -------------------------------------------------------------------------------------------------------------- cards


def _card(run: Run, place: int, image: _Pixels, x_adv: _Pixels | None, event: int | None) -> Card:
    example, true = int(run.ids[place]), _class_name(run, int(run.labels[place]))
    pictures, facts = [_shown(run, "original", image, f"Image {example} as it is: {true}")], []
    if event is None:
        return Card(true, tuple(pictures), (("image", str(example)),))
    events = run.events
    predicted = _class_name(run, int(events["predicted"][event]))
    if x_adv is not None:
        changed = f"Image {example} after the attack, predicted as {predicted}"
        drawn = perturbation(x_adv - image)
        pictures += [
            _shown(run, "adversarial", x_adv, changed),
            Picture("perturbation", drawn, f"What the attack changed in image {example}"),
        ]
    broken = events["status"][event] == "broken"
    facts += [
        ("image", str(example)),
        ("margin", _signed(float(events["margin"][event]))),
        ("distance", number(float(events["distance"][event]))),
        ("broken by" if broken else "closest attack", clip(events["attack"][event], 40)),
    ]
    title = f"{true} → {predicted}" if broken else f"{true}, not broken"
    return Card(title, tuple(pictures), tuple(facts))


def _shown(run: Run, caption: str, image: _Pixels, text: str) -> Picture:
    return Picture(caption, picture(image, run.spec.threat.low, run.spec.threat.high), text)


def _class_name(run: Run, index: int) -> str:
    classes = run.spec.data.classes
    if 0 <= index < len(classes):
        return clip(classes[index], 40)
    return f"class {index}" if index >= 0 else "no class"


def _signed(margin: float) -> str:
    return f"{margin:+.2g}".replace("-", "−") if math.isfinite(margin) else NONE  # noqa: RUF001 (a minus sign)


def _scale_sentence(run: Run) -> str:
    text = "Each perturbation is drawn to its own scale: full colour is its largest change."
    if run.spec.data.input_shape[0] == 3:
        return f"{text} Mid-grey means no change."
    return f"{text} Orange is brighter, blue is darker, white means no change."
