"""Scales: how much of a recipe, and of what measures it, is done. Each is a function from recipe to recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from unmask.errors import RecipeError, unknown
from unmask.recipes.recipe import Recipe
from unmask.recipes.tables import Attacked, Audited, Measure
from unmask.training import CosineRate, Objective, Optimizer, PgdAdversary

NARROW = {
    "lenet": "lenet-half",
    "lenet-madry": "lenet-half",
    "resnet20-v2": "resnet20-v2-narrow",
    "wrn-28-10": "wrn-10-1",
    "revnet-9": "revnet-9-narrow",
    "resnet50-v2": "resnet50-v2-narrow",
    "resnet101": "resnet101-narrow",
    "inception-v3": "inception-v3-narrow",
}


@dataclass(frozen=True)
class Scale:
    """How large a reproduction is.

    `recipe` says what is trained in place of a paper's recipe, `measure` what is measured in place of its attack, on
    the first `images` test images. `studied` is how many images a figure's study looks at, and `study` replaces some of
    its settings. With `falls_back` the built-in digits stand in for data that are absent. `tested` is how many test
    images the model cards' figures rest on (None: all).
    """

    name: str
    summary: str
    recipe: Callable[[Recipe], Recipe]
    measure: Callable[[Measure], Measure]
    images: int
    studied: int
    study: Mapping[str, object] = field(default_factory=dict)
    falls_back: bool = False
    tested: int | None = None


def _as_published(recipe: Recipe) -> Recipe:
    return recipe


def _small(recipe: Recipe) -> Recipe:
    """Narrow nets, Adam at 1e-3 along half a cosine in bf16, adversaries of at most 7 steps, a fraction of the epochs.

    Trainings without an adversary are given an eighth of their epochs, 12 to 60, in batches of 64; those with one get
    10 epochs in batches of 128.
    """
    training = recipe.training
    attacked = training.objective.adversary is not None
    return replace(
        recipe,
        architecture=NARROW.get(recipe.architecture, recipe.architecture),
        training=replace(
            training,
            objective=_quick_adversary(training.objective, steps=7),
            optimizer=Optimizer("adam", 1e-3),
            schedule=CosineRate(),
            epochs=10 if attacked else min(60, max(12, round(training.epochs / 8))),
            batch_size=128 if attacked else 64,
            accumulate=1,
            rate_per=None,
            precision="bfloat16",
        ),
    )


def _quick_adversary(objective: Objective, steps: int) -> Objective:
    """Let the adversary take `steps` steps that cross the ball as often as a few large ones do, in bf16."""
    adversary = objective.adversary
    if not isinstance(adversary, PgdAdversary) or adversary.steps <= steps:
        return objective
    quick = replace(adversary, steps=steps, step_size=adversary.threat.eps / 3, precision="bfloat16")
    return replace(objective, adversary=quick)


def _gpu_hour(recipe: Recipe) -> Recipe:
    """At most 30 epochs (5 on ImageNet) of the paper's training, in bf16."""
    most = 5 if recipe.data.startswith("imagenet") else 30
    training = replace(recipe.training, epochs=min(recipe.training.epochs, most), precision="bfloat16")
    return replace(recipe, training=training)


def _smoke(recipe: Recipe) -> Recipe:
    """One epoch of 24 images on the narrowest nets, adversaries of two steps."""
    training = recipe.training
    return replace(
        recipe,
        architecture=NARROW.get(recipe.architecture, recipe.architecture),
        images=24,
        held_out=0,
        training=replace(
            training,
            objective=_quick_adversary(training.objective, steps=2),
            epochs=1,
            batch_size=12,
            accumulate=1,
            rate_per=None,
            validation=None,
        ),
    )


def _at_most(steps: int, restarts: int) -> Callable[[Measure], Measure]:
    def fewer(measure: Measure) -> Measure:
        if not isinstance(measure, Attacked):
            return measure
        return replace(measure, steps=min(measure.steps, steps), restarts=min(measure.restarts, restarts))

    return fewer


def _quick_audits(measure: Measure) -> Measure:
    return Audited("quick") if measure == Audited("standard") else _at_most(steps=2, restarts=2)(measure)


ALL = 1_000_000
FEW: Mapping[str, object] = {"grid": "coarse", "restarts": 2, "points": 3, "images": 1}
FEWER: Mapping[str, object] = {"grid": "coarse", "restarts": 100, "points": 21}

SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale("paper", "the exact settings", _as_published, lambda measure: measure, images=ALL, studied=1_000),
        Scale(
            "gpu-hour",
            "at most 30 epochs (ImageNet: 5) in bf16, at most 100 restarts; about an hour per model on one GPU",
            _gpu_hour,
            _at_most(steps=ALL, restarts=100),
            images=1_000,
            studied=200,
        ),
        Scale(
            "small",
            "narrow nets, Adam at 1e-3 along a half cosine in bf16; adversaries of at most 7 steps; at most 5 restarts;"
            " minutes per model on two cores",
            _small,
            _at_most(steps=1_000, restarts=5),
            images=500,
            studied=200,
            study=FEWER,
        ),
        Scale(
            "smoke",
            "24 training images, 8 test images, 2 steps: shows that every part runs, and nothing else",
            _smoke,
            _quick_audits,
            images=8,
            studied=4,
            study=FEW,
            falls_back=True,
            tested=8,
        ),
    )
}


def find_scale(name: str) -> Scale:
    """Return the scale of that name. Raises RecipeError with a suggestion if there is none."""
    if name not in SCALES:
        raise RecipeError(unknown("scale", name, SCALES))
    return SCALES[name]
