"""Does the attack find adversarial examples where there surely are some?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypedDict

import torch
from torch import Tensor, nn

from unmask.attacks.ascent import SLICE
from unmask.contract import Model, logits_of
from unmask.diagnostics.features import features_and_logits, last_linear
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew
from unmask.errors import AuditError
from unmask.losses import predictions
from unmask.streams import Streams
from unmask.threat import ThreatModel

THRESHOLD, TOO_EASY = 0.95, 0.9

Attack = Callable[[Model, Tensor, Tensor, ThreatModel, Streams], Tensor]
"""(model, x (1, ...), y (1,), threat, streams of one) -> x_adv (1, ...): the attack of the evaluation under test."""


class Trial(TypedDict):
    """What came of one image; the scores are those of class 1, positive where it wins, -1 at the clean image."""

    id: int
    valid: bool
    tries: int
    found: bool | None
    random: bool | None
    score: float | None
    outer_score: float | None
    forwards: int
    backwards: int


@dataclass(frozen=True)
class _Problem:
    inner: int
    outer: int
    radius: float
    closeness: float
    draws: int
    tries: int

    def __post_init__(self) -> None:
        for name, least in (("inner", 2), ("outer", 1), ("draws", 1), ("tries", 1)):
            value = getattr(self, name)
            if value < least:
                raise AuditError(f"The binarization test got {name}={value}; expected {least} or more.")
        if not 0 < self.radius <= 1:
            raise AuditError(
                f"The binarization test got radius={self.radius}; expected a share of eps, above 0 up to 1."
            )
        if not 0 < self.closeness < 1:
            raise AuditError(
                f"The binarization test got closeness={self.closeness}; expected a number between 0 and 1."
            )


class Readout(nn.Module):
    """Logits (B, 2) of features (B, U): half of -score and +score, score = weights . (features - origin) - 1."""

    weights: Tensor
    origin: Tensor

    def __init__(self, weights: Tensor, origin: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("origin", origin)
        self.training = False

    def score(self, features: Tensor) -> Tensor:
        """Return the score of every row of features (B, U): (B,); class 1 where it is positive."""
        return (features - self.origin) @ self.weights - 1

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        score = self.score(features)
        return torch.stack([-score, score], dim=1) / 2


class Binary(nn.Module):
    """The model with one image's readout in place of its own; counts the example passes made through it."""

    def __init__(self, model: Model, features: Callable[[Tensor], Tensor], readout: Readout) -> None:
        super().__init__()
        self.model, self.features, self.readout = model, features, readout
        self.forwards = self.backwards = 0
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2) of images x (B, ...)."""
        logits: Tensor = self.readout(self.features(x))
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._note)
        return logits

    def _note(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def binarization(
    sample: Sample,
    attack: Attack,
    *,
    attack_name: str = "the attack",
    inner: int = 999,
    outer: int = 1,
    radius: float = 0.95,
    closeness: float = 0.999,
    draws: int = 200,
    tries: int = 10,
    keep: Keep[Trial] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Give every image a binary problem that has an adversarial example by construction, and see if `attack` finds one.

    The binarization test of Zimmermann et al. 2022 (Increasing Confidence in Adversarial Robustness Evaluations). Class
    0 of an image's problem are the image and `inner` - 1 random points of the ball of `radius` * eps, half of them
    uniform, half extreme; class 1 are `outer` random extreme points of the ball of eps. The features before the model's
    last linear layer stay (where there is no such layer, the logits serve as features); the readout is replaced by the
    linear separation of the two classes with the widest margin, moved by `closeness` of the way from the foremost inner
    point (0) to the foremost outer point (1), and scaled so that the score is -1 at the clean image. Where nothing
    separates, outer points are drawn anew, up to `tries` times; else the image has no valid problem.

    `attack` runs on one image at a time, with label 0 and the same threat model. What it returns is predicted again in
    the model's own precision and must lie in ball and box. A sound attack succeeds on 95% or more of the valid
    problems. `draws` random points, half uniform and half extreme, say how hard the problems are: beyond 90% a pass
    says nothing. The test is necessary, not sufficient: what goes wrong in the model's own readout or in the loss
    over many classes, it cannot see.

    Each image's part is kept by `keep` under the attack's name and the image's id. `watch(done, n)` is told after each
    image. Costs `inner` + `outer` per try + `draws` forwards per image, the attack, and a forward for each success to
    be checked. Raises AuditError for settings out of range or an attack that returns another shape.
    """
    problem = _Problem(inner, outer, radius, closeness, draws, tries)
    features, kind, overhead = _features(sample)
    trials = []
    for row in range(len(sample)):
        image = sample.select(torch.tensor([row])).child("binarization")

        def run(image: Sample = image) -> Trial:
            return _trial(image, features, attack, problem)

        trials.append(keep(f"binarization of image {sample.ids[row]} under {attack_name}", run))
        if watch is not None:
            watch(row + 1, len(sample))
    valid = [trial for trial in trials if trial["valid"]]
    success, random = _share(valid, "found"), _share(valid, "random")
    evidence = {
        "n": len(sample),
        "valid": len(valid),
        "success_rate": success,
        "random_success_rate": random,
        "threshold": THRESHOLD,
        "attack": attack_name,
        "inner": inner,
        "outer": outer,
        "radius": radius,
        "closeness": closeness,
        "draws": draws,
        "features": kind,
        "eps": sample.threat.eps,
        "per_image": trials,
    }
    status, summary, advice = _verdict(len(sample), len(valid), success, random, attack_name)
    return Finding(
        "binarization",
        status,
        summary,
        evidence,
        advice,
        forwards=overhead + sum(trial["forwards"] for trial in trials),
        backwards=sum(trial["backwards"] for trial in trials),
    )


def _verdict(n: int, valid: int, success: float | None, random: float | None, attack: str) -> tuple[Status, str, str]:
    if success is None or random is None or 2 * valid < n:
        return (
            "not_applicable",
            f"Only {valid} of {n} images allow a binary problem on these features: the test says nothing.",
            "Take fewer inner points.",
        )
    found = (
        f"On {valid} problems that surely have an adversarial example, {attack} finds {success:.0%}; "
        f"random points find {random:.0%}."
    )
    if success < THRESHOLD:
        return "fail", found, f"Do not believe {attack}: it misses adversarial examples that are there by construction."
    if random >= TOO_EASY:
        return "not_applicable", f"{found} The test is too easy to say anything.", "Take more inner points."
    return "ok", found, ""


def _trial(image: Sample, features: Callable[[Tensor], Tensor], attack: Attack, problem: _Problem) -> Trial:
    readout, outer_score, tries = _readout(image, features, problem)
    forwards = problem.inner + tries * problem.outer
    if readout is None:
        return _outcome(image, tries, None, None, None, None, forwards, 0)
    binary = Binary(image.model, features, readout)
    with torch.no_grad():
        lucky = any(
            bool((predictions(logits_of(binary, part)) == 1).any())
            for part in _random_points(image, image.threat, problem.draws, "draws").split(SLICE)
        )
    label = torch.zeros(1, dtype=torch.int64, device=image.x.device)
    x_adv = attack(binary, image.x, label, image.threat, image.streams.child("attack"))
    found, score = _judge(binary, image, x_adv)
    return _outcome(image, tries, found, lucky, score, outer_score, forwards + binary.forwards, binary.backwards)


def _outcome(
    image: Sample,
    tries: int,
    found: bool | None,
    random: bool | None,
    score: float | None,
    outer_score: float | None,
    forwards: int,
    backwards: int,
) -> Trial:
    return Trial(
        id=image.ids[0],
        valid=found is not None,
        tries=tries,
        found=found,
        random=random,
        score=score,
        outer_score=outer_score,
        forwards=forwards,
        backwards=backwards,
    )


@torch.no_grad()
def _judge(binary: Binary, image: Sample, x_adv: Tensor) -> tuple[bool, float | None]:
    """Return whether x_adv lies in ball and box and is predicted as class 1, and its score there."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != image.x.shape:
        got = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise AuditError(f"The attack returned {got}; expected the perturbed image, shape {tuple(image.x.shape)}.")
    x_adv = x_adv.detach().to(image.x)
    if not bool(image.threat.contains(x_adv, image.x)):
        return False, None
    logits = logits_of(binary, x_adv)
    return bool(predictions(logits) == 1), (logits[0, 1] - logits[0, 0]).item()


@torch.no_grad()
def _readout(
    image: Sample, features: Callable[[Tensor], Tensor], problem: _Problem
) -> tuple[Readout | None, float | None, int]:
    """Return the image's readout, the score of its foremost outer point, and how often outer points were drawn."""
    reach = image.threat.with_eps(Fraction(str(problem.radius)) * image.threat.exact_eps)
    inner = torch.cat([image.x, _random_points(image, reach, problem.inner - 1, "inner")])
    inner_features = _in_slices(features, inner)
    for attempt in range(problem.tries):
        outer = image.threat.corner(*_copies(image, problem.outer, "outer", attempt))
        outer_features = _in_slices(features, outer)
        readout = _separating(inner_features, outer_features, problem.closeness)
        if readout is not None:
            return readout, readout.score(outer_features).max().item(), attempt + 1
    return None, None, problem.tries


def _separating(inner: Tensor, outer: Tensor, closeness: float) -> Readout | None:
    """Return a readout whose class 0 are all inner features (N, U) and whose class 1 some outer ones, if there is one.

    The first inner row is the clean image's.
    """
    origin = inner[0]
    both = torch.cat([inner, outer]).double() - origin.double()
    scale = both.norm(dim=1).amax()
    if not scale > 0:
        return None
    direction = _widest_margin(both / scale, len(inner))
    scores = both @ direction
    behind, ahead = scores[: len(inner)].amax(), scores[len(inner) :].amax()
    if not ahead > behind:
        return None
    boundary = behind + closeness * (ahead - behind)
    readout = Readout((direction / boundary).to(inner), origin)
    separated = bool((readout.score(inner) < 0).all()) and bool((readout.score(outer) > 0).any())
    return readout if separated else None


def _widest_margin(points: Tensor, inner: int) -> Tensor:
    """Return the direction of the separating plane with the widest margin between the first `inner` rows and the rest.

    Rows (N, U) are float64 of length at most 1. Of rows that cannot be separated it is any direction.
    """
    # Here, because it takes a second and few need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVC

    labels = (torch.arange(len(points)) >= inner).int()
    machine = SVC(kernel="linear", C=1e6, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(points.cpu().numpy(), labels.numpy())
    return torch.tensor(machine.coef_[0]).to(points)


def _random_points(image: Sample, threat: ThreatModel, count: int, word: str) -> Tensor:
    """Return `count` random points around the one image, half of them uniform in the ball, half extreme."""
    points = []
    for name, draw, many in (("uniform", threat.uniform, count - count // 2), ("extreme", threat.corner, count // 2)):
        points.append(draw(*_copies(image, many, word, name)))
    return torch.cat(points)


def _copies(image: Sample, count: int, *words: object) -> tuple[Tensor, Streams]:
    """Return the one image `count` times, with a stream for each copy."""
    seeds = tuple(image.streams.child(*words, i).seeds[0] for i in range(count))
    return image.x.expand(count, *image.x.shape[1:]), Streams(seeds, image.streams.device)


def _in_slices(features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([features(part) for part in x.split(SLICE)])


def _features(sample: Sample) -> tuple[Callable[[Tensor], Tensor], str, int]:
    """Return the map from images to features, what they are, and the forwards that finding out took."""
    model = sample.model
    looked = int(isinstance(model, nn.Module) and len(sample) > 0)
    layer = last_linear(model, sample.x[:1]) if looked else None
    if layer is None:
        return lambda x: logits_of(model, x), "logits", looked
    return (
        lambda x: features_and_logits(model, x, layer)[0],
        f"{layer.in_features} inputs of the last linear layer",
        looked,
    )


def _share(trials: Sequence[Mapping[str, object]], key: str) -> float | None:
    return sum(bool(trial[key]) for trial in trials) / len(trials) if trials else None
