"""Which images the report shows, and what stands beside each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from unmask.ledger import Run
from unmask.ledger.queries import broken_by, statuses
from unmask.report.pictures import LARGEST, perturbation, picture
from unmask.report.words import NONE, clip, number

BROKEN = 12
SURVIVORS = 4
MOST_BESIDE = 400
MOST_BYTES = 12_000_000
MOST_TOLD = 24

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
class Trail:
    """The margins (R,) of one image after each attack on it: `points` draws them in a box of 100 by 24, 0 at `zero`."""

    points: str
    zero: float
    text: str


@dataclass(frozen=True)
class Card:
    """One image of the gallery: pictures from original to perturbation, and the facts about it.

    `outcome` ("broken" or "survived"), `label` (its class) and `attack` (that broke it or came closest) can be asked
    for; `trail` is None where fewer than two attacks recorded a margin.
    """

    title: str
    outcome: str
    label: str
    attack: str
    pictures: tuple[Picture, ...]
    facts: tuple[tuple[str, str], ...]
    trail: Trail | None = None


@dataclass(frozen=True)
class Gallery:
    """Images that fell and images that stood; `scale` says how perturbations are drawn."""

    broken: tuple[Card, ...]
    survivors: tuple[Card, ...]
    scale: str

    @property
    def cards(self) -> tuple[Card, ...]:
        """All images."""
        return self.broken + self.survivors

    @property
    def labels(self) -> list[str]:
        """The classes of the images, each once."""
        return list(dict.fromkeys(sorted(card.label for card in self.cards)))

    @property
    def attacks(self) -> list[str]:
        """The attacks that broke the images or came closest, each once."""
        return list(dict.fromkeys(card.attack for card in self.cards if card.attack))


def gallery(run: Run, broken: int = BROKEN, survivors: int = SURVIVORS) -> Gallery:
    """Return up to so many broken images, spread over attacks and classes, and survivors that came closest to breaking.

    Raises LedgerError for a damaged file of images.
    """
    fell, stood = broken_places(run, broken), _closest_survivors(run, survivors)
    images = run.inputs()[2] if fell or stood else np.empty(0, dtype=np.float32)
    ids, kept = run.adversarial()
    row = {int(example): place for place, example in enumerate(ids)}
    events = telling_events(run)
    margins = _margins(run, run.ids[np.array([*fell, *stood], dtype=np.int64)])

    def card(place: int) -> Card:
        example = int(run.ids[place])
        x_adv = kept[row[example]] if example in row else None
        found = _card(run, place, images[place], x_adv, events.get(example))
        return replace(found, trail=_trail(margins[example]))

    return Gallery(tuple(map(card, fell)), tuple(map(card, stood)), _scale_sentence(run))


def gallery_beside(run: Run) -> Gallery | None:
    """Return a larger gallery for a page of its own, up to 400 images of each kind; None where it would show no more.

    Large images are fewer, so that such a page holds about 12 MB at the most. Raises LedgerError as `gallery` does.
    """
    channels, height, width = run.spec.data.input_shape
    each = 3 * channels * min(height, LARGEST) * min(width, LARGEST)
    most = max(min(MOST_BESIDE, MOST_BYTES // (2 * each)), BROKEN)
    found = statuses(run)
    fell, stood = len(broken_places(run, most)), min(int((found == "survived").sum()), most)
    return gallery(run, most, most) if fell > BROKEN or stood > SURVIVORS else None


# ----------------------------------------------------------------------------------------------------------- choosing


def broken_places(run: Run, most: int) -> list[int]:
    """Return the places in `run.ids` of up to so many images that an attack broke, spread over attacks and classes."""
    attack = broken_by(run)
    order = [entry.attack for entry in run.spec.plan if entry.role != "clean"]
    by_attack = [_over_classes(run, np.flatnonzero(attack == name)) for name in dict.fromkeys(order)]
    return list(islice(_in_turn(by_attack), most))


def _over_classes(run: Run, places: _Ids) -> list[int]:
    labels = run.labels[places]
    return list(_in_turn([places[labels == label].tolist() for label in np.unique(labels)]))


def _in_turn(groups: Iterable[Iterable[_T]]) -> Iterator[_T]:
    missing = object()
    for item in chain.from_iterable(zip_longest(*groups, fillvalue=missing)):
        if item is not missing:
            yield item  # type: ignore[misc]


def _closest_survivors(run: Run, most: int) -> list[int]:
    survived = np.flatnonzero(statuses(run) == "survived")
    best = {example: run.events["margin"][event] for example, event in telling_events(run).items()}
    margins = np.array([best.get(example, np.nan) for example in run.ids[survived].tolist()], dtype=float)
    order = np.argsort(-np.nan_to_num(margins, nan=-np.inf), kind="stable")
    return [int(place) for place in survived[order[:most]]]


def telling_events(run: Run) -> dict[int, int]:
    """Return for each attacked example the position of its event of largest margin, the break if there is one."""
    events = run.events
    attacked = np.flatnonzero(events["round"] > 0)
    margins = np.nan_to_num(events["margin"][attacked], nan=-np.inf)
    order = np.lexsort((margins, events["status"][attacked] == "broken", events["id"][attacked]))
    chosen = attacked[order]
    return dict(zip(events["id"][chosen].tolist(), chosen.tolist(), strict=True))  # the last one of each id stays


# -------------------------------------------------------------------------------------------------------------- cards


def _card(run: Run, place: int, image: _Pixels, x_adv: _Pixels | None, event: int | None) -> Card:
    example, true = int(run.ids[place]), class_name(run, int(run.labels[place]))
    pictures, facts = [_shown(run, "original", image, f"Image {example} as it is: {true}")], []
    if event is None:
        return Card(true, "survived", true, "", tuple(pictures), (("image", str(example)),))
    events = run.events
    predicted = class_name(run, int(events["predicted"][event]))
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
    attack = clip(events["attack"][event], 40)
    return Card(title, "broken" if broken else "survived", true, attack, tuple(pictures), tuple(facts))


def _margins(run: Run, shown: _Ids) -> dict[int, list[tuple[str, float]]]:
    """Return for each of the images its attacks in the order of the rounds, with the margin that each recorded."""
    events = run.events
    mine = np.flatnonzero(np.isin(events["id"], shown) & np.isfinite(events["margin"]))
    found: dict[int, list[tuple[str, float]]] = {int(example): [] for example in shown}
    for event in mine[np.argsort(events["round"][mine], kind="stable")]:
        found[int(events["id"][event])].append((clip(events["attack"][event], 40), float(events["margin"][event])))
    return found


def _trail(margins: Sequence[tuple[str, float]]) -> Trail | None:
    if len(margins) < 2:
        return None
    values = np.array([margin for _, margin in margins])
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    scale = (high - low) or 1.0
    across, up = np.linspace(2, 98, len(values)), 2 + 20 * (high - values) / scale
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
    told = ", ".join(f"{attack} {_signed(margin)}" for attack, margin in margins[:MOST_TOLD])
    more = f" and {len(margins) - MOST_TOLD} more" if len(margins) > MOST_TOLD else ""
    return Trail(points, float(2 + 20 * high / scale), f"Margin after each attack: {told}{more}")


def _shown(run: Run, caption: str, image: _Pixels, text: str) -> Picture:
    return Picture(caption, picture(image, run.spec.threat.low, run.spec.threat.high), text)


def class_name(run: Run, index: int) -> str:
    """Return what a class is called, in few letters."""
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
