"""The adversaries inside training: each finds points near the images on the model as it stands, leaving no trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from unmask.attacks import half_precision
from unmask.attacks.ascent import climb
from unmask.attacks.fast_passes import fast_passes
from unmask.attacks.problem import Problem, input_gradient
from unmask.attacks.start import Start, Started, at, clean, noised, uniform
from unmask.attacks.stepper import fixed
from unmask.attacks.targets import least_likely_target, random_target
from unmask.contract import logits_of
from unmask.errors import RecipeError, unknown
from unmask.losses import Loss, cross_entropy, divergence
from unmask.streams import Streams
from unmask.threat import ThreatModel
from unmask.training.batch_norm import untouched_statistics

Aim = Literal["untargeted", "least_likely", "random"]
Ascent = Literal["cross_entropy", "divergence"]
Begin = Literal["uniform", "ball", "gaussian", "clean"]
Precision = Literal["float32", "bfloat16"]
Memory = dict[str, Tensor]

GAUSSIAN_START = 1e-3


class Adversary(ABC):
    """What an objective asks for points near its images.

    `replays` is how many steps in a row are made with the same images; `memory` holds what an adversary keeps from
    step to step, and is part of a checkpoint.
    """

    replays = 1

    @abstractmethod
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, memory: Memory | None = None
    ) -> Tensor:
        """Return points near x (B, C, H, W), y (B,)."""

    def learn(self, x: Tensor, x_adv: Tensor, memory: Memory) -> None:  # noqa: B027 - most learn nothing
        """Take in the gradient that the objective's backward pass left at x_adv, if the adversary asked for one."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""


@dataclass(frozen=True)
class PgdAdversary(Adversary):
    """PGD from a random start; the last iterate is used, as in Madry et al. 2018.

    `step_size` is in pixels. `aim` "least_likely" or "random" descends towards that wrong class instead (the LL rows
    of Mosbach et al.). `loss` "divergence" climbs KL(p(x) || p(x')) from `start` "gaussian", N(0, 0.001^2), as TRADES
    does; one step of 1.25 eps from "ball", which does not mind the box, is Fast adversarial training's (Wong et al.
    2020: in the box, where images are black or white, all steps would end at its corners). With `eval_mode`
    (the default) batch-norm statistics are neither used from nor updated by the batch; without it the batch's own
    statistics are used, and the running ones are left as they were. `precision` "bfloat16" is for GPUs, and CPUs with
    bf16 units. Raises RecipeError for an unknown word, for an aim with the divergence, or if there is no step to take.
    """

    threat: ThreatModel
    steps: int
    step_size: float
    aim: Aim = "untargeted"
    eval_mode: bool = True
    loss: Ascent = "cross_entropy"
    start: Begin = "uniform"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        _check("aim of the adversary", self.aim, get_args(Aim))
        _check("loss of the adversary", self.loss, get_args(Ascent))
        _check("start of the adversary", self.start, get_args(Begin))
        _check("precision of the adversary", self.precision, get_args(Precision))
        if self.loss == "divergence" and (self.aim != "untargeted" or self.start == "clean"):
            raise RecipeError(
                f"The adversary climbs the divergence with aim {self.aim} from start {self.start}; expected no aim, "
                "and a random start, since the divergence has no slope at the image itself."
            )
        if self.steps < 1 or not self.step_size > 0:
            raise RecipeError(
                f"The adversary takes {self.steps} steps of {self.step_size} pixels; expected 1 or more, above 0."
            )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, memory: Memory | None = None
    ) -> Tensor:
        """Return adversarial images for x (B, C, H, W), y (B,)."""
        with attacked(model, self.eval_mode):
            target = self._target(model, x, y, streams)
            passes = half_precision(model) if self.precision == "bfloat16" else fast_passes(model, x)
            problem = Problem(passes, x, y, self.threat, self._loss(model, x), streams, target)
            return climb(problem, start=self._start(x), stepper=fixed(self.step_size), steps=self.steps)

    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""
        settings = {name: value for name, value in vars(self).items() if name != "threat"}
        return {"attack": "pgd", "threat": str(self.threat), **settings}

    def _loss(self, model: nn.Module, x: Tensor) -> Loss:
        if self.loss == "cross_entropy":
            return cross_entropy
        with torch.no_grad():
            reference = logits_of(model, x)
        return lambda logits, y, target=None: divergence(reference, logits)

    def _start(self, x: Tensor) -> Start:
        if self.start == "ball":
            room = self.threat.eps
            everywhere = replace(self.threat, low=self.threat.low - room, high=self.threat.high + room)
            return lambda problem: Started(everywhere.uniform(problem.x, problem.streams))
        if self.start == "gaussian":
            return noised(at(x), GAUSSIAN_START)
        return uniform() if self.start == "uniform" else clean()

    def _target(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor | None:
        if self.aim == "untargeted":
            return None
        if self.aim == "least_likely":
            return least_likely_target(model, x, y)
        with torch.no_grad():
            classes = logits_of(model, x[:1]).shape[1]
        return random_target(y, classes, streams.child("target"))


@dataclass(frozen=True)
class VirtualAdversary(Adversary):
    """The direction of length `eps` (L2) in which the model's answer changes most: virtual adversarial training.

    Miyato et al. 2018, Eq. 10 to 12: `iterations` of the power method on the Hessian of KL(p(x) || p(x + r)) at r = 0,
    by finite differences of length `xi` (the paper's 1e-6 is lost in fp32). Labels are not looked at, and images may
    leave the box, as in the paper.
    """

    eps: float
    xi: float = 1e-2
    iterations: int = 1
    eval_mode: bool = False

    def __post_init__(self) -> None:
        if not (self.eps > 0 and self.xi > 0 and self.iterations >= 1):
            raise RecipeError(
                f"The virtual adversary has eps {self.eps}, xi {self.xi} and {self.iterations} iterations; expected "
                "lengths above 0 and at least one iteration."
            )

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, memory: Memory | None = None
    ) -> Tensor:
        """Return virtual adversarial images for x (B, C, H, W)."""
        with attacked(model, self.eval_mode):
            with torch.no_grad():
                reference = logits_of(model, x)
            direction = _unit(streams.normal(x.shape[1:]).to(x))
            for _ in range(self.iterations):
                leaf = (x + self.xi * direction).detach().requires_grad_()
                slope = input_gradient(divergence(reference, logits_of(model, leaf)), leaf)
                moved = slope.flatten(1).norm(dim=1) > 0
                direction = torch.where(moved.view(-1, *[1] * (x.dim() - 1)), _unit(slope), direction)
            return (x + self.eps * direction).detach()

    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""
        return {"attack": "virtual", **asdict(self)}


@dataclass(frozen=True)
class EnsembleAdversary(Adversary):
    """Each image is attacked on the model itself or on one of some fixed others, drawn at random (Tramer et al. 2018).

    `surrogates` names the others (of the zoo, or folders that a training left); `models` are they, filled in when a
    training begins.
    """

    attack: PgdAdversary
    surrogates: tuple[str, ...]
    models: tuple[nn.Module, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise RecipeError("The ensemble adversary has no surrogates: name at least one trained model.")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, memory: Memory | None = None
    ) -> Tensor:
        """Return adversarial images for x (B, C, H, W), y (B,); raises RecipeError where the models are missing."""
        if len(self.models) != len(self.surrogates):
            raise RecipeError(f"The surrogates {', '.join(self.surrogates)} are not loaded: give them as `models`.")
        sources, x_adv = (model, *self.models), x.clone()
        drawn = streams.child("source").integers(len(sources)).to(x.device)
        for number, source in enumerate(sources):
            rows = (drawn == number).nonzero().flatten()
            if len(rows):
                x_adv[rows] = self.attack(source, x[rows], y[rows], streams.select(rows))
        return x_adv

    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""
        return {**self.attack.describe(), "surrogates": list(self.surrogates)}


@dataclass(frozen=True)
class FreeAdversary(Adversary):
    """The perturbation learns from the same backward pass as the weights: Free adversarial training.

    Shafahi et al. 2019, Algorithm 1: each batch is used `replays` times in a row, and the perturbation, which goes on
    from batch to batch, takes a step of eps along the gradient that training needed anyway.
    """

    threat: ThreatModel
    replays: int = 8

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise RecipeError(f"The free adversary replays each batch {self.replays} times; expected 1 or more.")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, memory: Memory | None = None
    ) -> Tensor:
        """Return x (B, C, H, W) with the perturbation of `memory`, as a leaf that asks for its gradient."""
        kept = None if memory is None else memory.get("perturbation")
        moved = x if kept is None else self.threat.project(x + kept[: len(x)], x)
        return moved.detach().clone().requires_grad_()

    def learn(self, x: Tensor, x_adv: Tensor, memory: Memory) -> None:
        """Move the perturbation by eps along the gradient at x_adv."""
        kept = memory.setdefault("perturbation", torch.zeros_like(x))
        if x_adv.grad is not None:
            step = self.threat.steepest_step(x_adv.grad, x_adv.detach(), self.threat.eps)
            kept[: len(x)] = self.threat.project(x_adv.detach() + step, x) - x

    def describe(self) -> dict[str, object]:
        """Return the adversary as plain values, for records and fingerprints."""
        return {"attack": "free", "threat": str(self.threat), "replays": self.replays}


@contextmanager
def attacked(model: nn.Module, eval_mode: bool) -> Iterator[None]:
    """Put the model in the attack's mode, and give back its modes and batch-norm statistics as they were."""
    modes = {module: module.training for module in model.modules()}
    model.train(not eval_mode)
    try:
        with nullcontext() if eval_mode else untouched_statistics(model):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _unit(moves: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(moves.flatten(1), dim=1).clamp_min(torch.finfo(moves.dtype).tiny)
    unit: Tensor = moves / lengths.view(-1, *[1] * (moves.dim() - 1))
    return unit


def _check(kind: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise RecipeError(unknown(kind, word, known))
