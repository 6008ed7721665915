"""The studies that a diagnosis is made of: what each looks at, what decides it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import isfunction
from typing import Any

import torch
from torch import Tensor

from unmask.audit.budgets import BUDGETS
from unmask.audit.plan import Task, claim_attack
from unmask.audit.runner import audit
from unmask.contract import Model, logits_of
from unmask.diagnostics import (
    Finding,
    Keep,
    Sample,
    activations,
    binarization,
    coarse_grid,
    eps_curve,
    full_grid,
    heatmap,
    indicators,
    linearised,
    restart_curve,
    restart_losses,
    step_curve,
    surface,
)
from unmask.diagnostics.binarization import Attack
from unmask.diagnostics.eps_curve import SHARES
from unmask.diagnostics.falls import USUAL_STEPS
from unmask.diagnostics.step_curve import STEPS
from unmask.diagnostics.surface import check_slice
from unmask.distributed import Workers
from unmask.errors import AuditError, unknown
from unmask.losses import predictions
from unmask.streams import Streams
from unmask.threat import Linf, ThreatModel

Watch = Callable[[int, int], None]
"""Is told how many parts of how many a study has done."""

GRIDS = {"coarse": coarse_grid, "full": full_grid}


@dataclass(frozen=True)
class Settings:
    """What studies can be told: each heeds some of these, named by its `options`.

    `grid` of the heatmap: "coarse" (7 x 7) or "full" (the paper's 37 x 37). `restarts`: starts per image of histogram
    and restart curve. `points`, `directions`: the surface's, per axis. `images`: how many images, of those the model
    has right, the studies of single images look at (None: as many as each thinks fit). `attack`: what the binarization
    test puts to the test: a budget's name (an audit of that budget), a claim's (such as "pgd-40", "fgsm"), or a
    function. `batch_size` decides nothing but speed.
    """

    grid: str = "coarse"
    restarts: int = 100
    points: int = 41
    directions: tuple[str, str] = ("random", "adversarial")
    images: int | None = None
    attack: str | Attack = "standard"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise AuditError(unknown("grid", self.grid, GRIDS))
        for name, least in (("restarts", 2), ("images", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise AuditError(f"{name} is {value}; expected {least} or more.")
        check_slice(self.directions, self.points)

    @property
    def recordable(self) -> bool:
        """Whether the attack's name says which attack it is: not of lambdas, local functions and objects."""
        return isinstance(self.attack, str) or (isfunction(self.attack) and "<" not in self.attack.__qualname__)

    def describe(self, options: tuple[str, ...]) -> dict[str, object]:
        """Return the named settings as plain values, for records."""
        described = {"attack": self.attack if isinstance(self.attack, str) else _name(self.attack)}
        found = {name: described.get(name, getattr(self, name)) for name in options}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@dataclass(frozen=True)
class Study:
    """One study: `examine(sample, settings, keep, watch) -> Finding` on the images it looks at.

    `check` is the finding's name. `options` are the settings that decide it. `evaluations(settings, classes)` is about
    what it spends at most per image it looks at. `few`: it looks at so many of the images that the model has right,
    unless `settings.images` says how many; None: at all images.
    """

    name: str
    check: str
    summary: str
    examine: Callable[[Sample, Settings, Keep[Any], Watch], Finding]
    evaluations: Callable[[Settings, int], int]
    options: tuple[str, ...] = ()
    few: int | None = None

    def run(self, sample: Sample, settings: Settings, keep: Keep[Any], watch: Watch) -> Finding:
        """Return the finding on a sample's images, drawing from streams of the study's own."""
        if self.few is None:
            return self.examine(sample.child(self.name), settings, keep, watch)
        right = keep(f"{self.name}, images", lambda: _right(sample, self._most(settings), settings.batch_size))
        if not right["rows"]:
            words = "The model gets every image wrong as it is: there is nothing to look at."
            return Finding(self.check, "not_applicable", words, forwards=right["forwards"])
        chosen = sample.select(torch.tensor(right["rows"], device=sample.x.device))
        finding = self.examine(chosen.child(self.name), settings, keep, watch)
        return replace(finding, forwards=finding.forwards + right["forwards"])

    def cost(self, settings: Settings, n: int, classes: int) -> int:
        """Return about how many evaluations the study spends at most on n images."""
        return self.evaluations(settings, classes) * (n if self.few is None else min(n, self._most(settings)))

    def _most(self, settings: Settings) -> int:
        return settings.images or self.few or 1


@torch.no_grad()
def _right(sample: Sample, most: int, batch_size: int) -> dict[str, Any]:
    """Return the rows of the first `most` images that the model has right, and the forwards spent to find them."""
    rows: list[int] = []
    seen = 0
    while len(rows) < most and seen < len(sample):
        part = slice(seen, seen + batch_size)
        right = predictions(logits_of(sample.model, sample.x[part])) == sample.y[part]
        rows += [seen + row for row in right.nonzero().flatten().tolist()]
        seen += len(right)
    return {"rows": rows[:most], "forwards": seen}


def _heatmap(sample: Sample, settings: Settings, keep: Keep[Any], watch: Watch) -> Finding:
    step_sizes, steps = GRIDS[settings.grid](sample.threat)
    return heatmap(sample, step_sizes=step_sizes, steps=steps, batch_size=settings.batch_size, keep=keep, watch=watch)


def _heatmap_cost(settings: Settings, classes: int) -> int:
    step_sizes, steps = GRIDS[settings.grid](Linf(0.1))
    return len(step_sizes) * 2 * max(steps)


def _surface(sample: Sample, settings: Settings, keep: Keep[Any], watch: Watch) -> Finding:
    return surface(
        sample,
        directions=settings.directions,
        points=settings.points,
        batch_size=settings.batch_size,
        keep=keep,
        watch=watch,
    )


def restart_counts(most: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50, ... up to `most`, and `most` itself."""
    round_ones = {digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)}
    return tuple(sorted({count for count in round_ones if count < most} | {most}))


def _restart_curve(sample: Sample, settings: Settings, keep: Keep[Any], watch: Watch) -> Finding:
    counts = restart_counts(settings.restarts)
    return restart_curve(sample, restarts=counts, batch_size=settings.batch_size, keep=keep, watch=watch)


def _binarization(sample: Sample, settings: Settings, keep: Keep[Any], watch: Watch) -> Finding:
    attack, name = named_attack(settings.attack, sample.threat)
    return binarization(sample, attack, attack_name=name, keep=keep, watch=watch)


def named_attack(attack: str | Attack, threat: ThreatModel) -> tuple[Attack, str]:
    """Return an attack as the binarization test takes it, and its name. Raises AuditError for an unknown name."""
    if not isinstance(attack, str):
        return attack, _name(attack)
    if attack in BUDGETS:
        return _audit_of(attack), f"the {attack} audit"
    try:
        planned = claim_attack(attack, threat)
    except AuditError as error:
        raise AuditError(f"{error} Or the name of a budget: {', '.join(BUDGETS)}.") from error

    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams) -> Tensor:
        return planned.run(Task(model, x, y, threat, streams, 0, x, x.new_empty((len(x), 0, *x.shape[1:])))).x_adv

    return run, attack


def _audit_of(budget: str) -> Attack:
    def run(model: Model, x: Tensor, y: Tensor, threat: ThreatModel, streams: Streams) -> Tensor:
        result = audit(
            model, x, y, threat, budget=budget, claim=None, seed=streams.seeds[0], diagnostics=False, workers=Workers()
        )
        return result.x_adv

    return run


def _binarization_cost(settings: Settings, classes: int) -> int:
    tested = 2 * USUAL_STEPS
    if isinstance(settings.attack, str) and settings.attack in BUDGETS:
        tested = int(BUDGETS[settings.attack].per_survivor)
    return 1_200 + tested


def _name(attack: Attack) -> str:
    return str(getattr(attack, "__qualname__", type(attack).__qualname__))


_ALL = (
    Study(
        "heatmap",
        "heatmap",
        "accuracy against step size and steps of PGD",
        _heatmap,
        _heatmap_cost,
        options=("grid",),
    ),
    Study(
        "histogram",
        "restart_losses",
        "final losses of PGD over many restarts, image by image",
        lambda sample, settings, keep, watch: restart_losses(
            sample, restarts=settings.restarts, batch_size=settings.batch_size, keep=keep, watch=watch
        ),
        lambda settings, classes: settings.restarts * (2 * USUAL_STEPS + 1),
        options=("restarts", "images"),
        few=12,
    ),
    Study(
        "surface",
        "surface",
        "the loss on a slice of input space around an image",
        _surface,
        lambda settings, classes: settings.points**2 + 2,
        options=("points", "directions", "images"),
        few=3,
    ),
    Study(
        "eps-curve",
        "eps_curve",
        "accuracy against eps, up to no bound at all",
        lambda sample, settings, keep, watch: eps_curve(
            sample, independent=True, batch_size=settings.batch_size, keep=keep, watch=watch
        ),
        lambda settings, classes: 41 * (len(SHARES) + 1),
    ),
    Study(
        "restart-curve",
        "restart_curve",
        "accuracy against the restarts of PGD",
        _restart_curve,
        lambda settings, classes: settings.restarts * (2 * USUAL_STEPS + 1),
        options=("restarts",),
    ),
    Study(
        "step-curve",
        "step_curve",
        "accuracy against the steps of PGD",
        lambda sample, settings, keep, watch: step_curve(
            sample, batch_size=settings.batch_size, keep=keep, watch=watch
        ),
        lambda settings, classes: 2 * max(STEPS),
    ),
    Study(
        "linearised",
        "linearised",
        "logit gaps, gradient gaps and the robustness they predict",
        lambda sample, settings, keep, watch: linearised(sample, keep=keep),
        lambda settings, classes: classes + 2 + 14 * 3,
    ),
    Study(
        "activations",
        "activations",
        "how many units carry the features",
        lambda sample, settings, keep, watch: activations(sample, keep=keep),
        lambda settings, classes: 1,
    ),
    Study(
        "indicators",
        "indicators",
        "which step of a gradient attack goes wrong",
        lambda sample, settings, keep, watch: indicators(sample),
        lambda settings, classes: 94,
        options=("images",),
        few=100,
    ),
    Study(
        "binarization",
        "binarization",
        "does the attack find adversarial examples where there surely are some",
        _binarization,
        _binarization_cost,
        options=("attack", "images"),
        few=50,
    ),
)

STUDIES: Mapping[str, Study] = {study.name: study for study in _ALL}
