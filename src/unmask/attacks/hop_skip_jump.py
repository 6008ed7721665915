"""HopSkipJump: along the decision boundary towards the clean image, for models that give away labels alone."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from unmask.attacks.nearest import Nearest
from unmask.attacks.problem import AttackResult, Problem, pose
from unmask.contract import Model, eval_mode
from unmask.errors import AuditError, DataError
from unmask.losses import predictions
from unmask.streams import Streams
from unmask.threat import ThreatModel

SUPPORTED = ("linf", "l2")
MOST_SAMPLES = 10_000
FIRST_PROBE = 0.1
FINEST = 1e-6
HALVINGS = 20


def hop_skip_jump(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    queries: int = 1000,
    samples: int = 100,
    start: Tensor | None = None,
    generator: torch.Generator | Streams | None = None,
) -> AttackResult:
    """Attack x (B, C, H, W), y (B,) by predicted labels alone, for Linf and L2 (Chen et al. 2020, Algorithm 2).

    From an adversarial point, however far, each round searches the boundary on the way to the clean image, estimates
    the boundary's normal there from `samples` * sqrt(round) random directions, and steps along it. `start` (B, ...)
    gives points to begin at; where it has none that is adversarial, random images are tried. No image costs more than
    `queries` forwards, the clean image's and the last point's included; none costs a backward. An image with an
    adversarial point in the ball is left alone at once; where the nearest one found lies outside, its projection is
    returned. Logits are read for the margin that is reported, and steer nothing; the trace is the clean image's, -1 for
    a right prediction and 1 for a wrong one.

    Raises AuditError for another norm or unusable numbers, DataError or ModelError for unusable inputs or outputs.
    """
    if threat.norm not in SUPPORTED:
        raise AuditError(f"hop_skip_jump knows no geometry for {threat}; its norms are {' and '.join(SUPPORTED)}.")
    problem = pose(model, x, y, threat=threat, generator=generator, loss=decision)
    return nearest_by_hop_skip_jump(problem, queries, samples, start).result()


def nearest_by_hop_skip_jump(problem: Problem, queries: int, samples: int, start: Tensor | None = None) -> Nearest:
    """Look for the nearest adversarial points; arguments and errors as in `hop_skip_jump`, one query left over."""
    if queries < 1 or samples < 2:
        raise AuditError(f"queries is {queries} and samples is {samples}; expected 1 and 2 or more.")
    if start is not None and start.shape != problem.x.shape:
        shapes = f"{tuple(start.shape)} for images of shape {tuple(problem.x.shape)}"
        raise DataError(f"Start points came in shape {shapes}; give one point per image.")
    found = Nearest(replace(problem, streams=problem.streams.child("hop_skip_jump")))
    if len(problem.x):
        with eval_mode(problem.model):
            found.judge(found.survivors(), problem.x, traced=True)
            _Walk(found, queries - 1, samples).go(start)
    return found


def decision(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return 1 where the prediction is wrong and -1 where it is right: all that the attack is allowed to see."""
    return torch.where(predictions(logits) != y, 1.0, -1.0).to(logits)


class _Walk:
    """The walk of every example from `points` (B, ...), which are adversarial where `started` (B,) says so."""

    def __init__(self, found: Nearest, queries: int, samples: int) -> None:
        self.found, self.queries, self.samples = found, queries, samples
        self.x, self.threat = found.problem.x, found.problem.threat
        self.points = self.x.clone()
        self.started = torch.zeros_like(found.broken)
        self.size = self.x.shape[1:].numel()
        power = 1.5 if self.threat.norm == "l2" else 2.0
        self.precision: float = max(self.size**-power, FINEST)

    def go(self, start: Tensor | None) -> None:
        """Walk until every example is broken or out of queries."""
        self._begin(start)
        turn = 0
        while len(rows := self._rows(self.started)):
            if turn:
                self._advance(rows, self._normal(rows, turn), turn)
            self._approach(rows)
            turn += 1

    def _begin(self, start: Tensor | None) -> None:
        draws = 0
        while len(rows := self._rows(~self.started)):
            if start is not None and not draws:
                points = start[rows].to(self.x).clamp(self.threat.low, self.threat.high)
            else:
                points = self._random_images(rows, black_and_white=bool(draws % 2))
            adversarial = self._ask(rows, points)
            self.points[rows[adversarial]] = points[adversarial]
            self.started[rows[adversarial]] = True
            draws += 1

    def _random_images(self, rows: Tensor, *, black_and_white: bool) -> Tensor:
        """Return uniform noise, or white pixels of random density on black: models call each by few names."""
        streams = self.found.problem.streams.select(rows)
        noise = streams.uniform(self.x.shape[1:]).to(self.x)
        if black_and_white:
            noise = (noise < self._per_image(streams.uniform(()).to(self.x))).to(self.x)
        return self.threat.low + (self.threat.high - self.threat.low) * noise

    def _approach(self, rows: Tensor) -> None:
        """Move the points to the boundary on their way to the clean images, by bisection."""
        far = self.points[rows]
        inner, outer = (
            torch.full((len(rows),), share, dtype=self.x.dtype, device=self.x.device) for share in (0.0, 1.0)
        )
        for _ in range(math.ceil(-math.log2(self.precision))):
            middle = (inner + outer) / 2
            adversarial = self._ask(rows, self._between(rows, far, middle))
            inner, outer = torch.where(adversarial, inner, middle), torch.where(adversarial, middle, outer)
        self.points[rows] = self._between(rows, far, outer)

    def _between(self, rows: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """Return the points at a share (S,) of the distance: on the straight way for L2, by clipping for Linf."""
        if self.threat.norm == "l2":
            return torch.lerp(self.x[rows], far, self._per_image(share)).clamp(self.threat.low, self.threat.high)
        change = far - self.x[rows]
        limit = self._per_image(share) * self._per_image(change.flatten(1).abs().amax(1))
        return (self.x[rows] + torch.minimum(torch.maximum(change, -limit), limit)).clamp(
            self.threat.low, self.threat.high
        )

    def _normal(self, rows: Tensor, turn: int) -> Tensor:
        """Return the boundary's normal (S, ...) as the mean of random directions by their decisions (Eq. 9 and 16)."""
        points = self.points[rows]
        reach = self._per_image(self._probe(rows, turn))
        agreed, drawn = torch.zeros_like(points), torch.zeros_like(points)
        balance, asked = (torch.zeros(len(rows), dtype=points.dtype, device=points.device) for _ in range(2))
        for _ in range(min(int(self.samples * math.sqrt(turn)), MOST_SAMPLES)):
            open_rows = self._open()[rows]
            if not open_rows.any():
                break
            noise = self.found.problem.streams.select(rows).normal(points.shape[1:]).to(points)
            noise = noise / self._per_image(torch.linalg.vector_norm(noise.flatten(1), dim=1))
            probes = (points + reach * noise).clamp(self.threat.low, self.threat.high)
            direction = (probes - points) / reach
            decision = (2.0 * self._ask(rows, probes).to(points) - 1) * open_rows
            agreed += self._per_image(decision) * direction
            drawn += self._per_image(open_rows.to(points)) * direction
            balance, asked = balance + decision, asked + open_rows
        mean = balance / asked.clamp(min=1)
        # Where all decisions agree there is nothing to weigh, and less the mean nothing would be left.
        return agreed - self._per_image(torch.where(mean.abs() < 1, mean, 0.0)) * drawn

    def _probe(self, rows: Tensor, turn: int) -> Tensor:
        """Return how far from the points (S,) the boundary is probed, in Euclidean length."""
        distance = self._distance(rows)
        if turn == 1:
            return torch.full_like(distance, FIRST_PROBE * (self.threat.high - self.threat.low))
        return distance * self.precision * (math.sqrt(self.size) if self.threat.norm == "l2" else self.size)

    def _advance(self, rows: Tensor, normal: Tensor, turn: int) -> None:
        """Step along the normals, by the distance / sqrt(turn), halved until the new points are adversarial."""
        points = self.points[rows]
        move = self.threat.steepest_step(normal, points, self._distance(rows) / math.sqrt(turn))
        for halving in range(HALVINGS):
            if not len(rows):
                return
            further = (points + move / 2**halving).clamp(self.threat.low, self.threat.high)
            adversarial = self._ask(rows, further)
            self.points[rows[adversarial]] = further[adversarial]
            rows, points, move = rows[~adversarial], points[~adversarial], move[~adversarial]

    def _ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Say of one point per row whether it is adversarial (S,); no for rows that are broken or out of queries."""
        open_rows = self._open()[rows]
        adversarial = torch.zeros_like(open_rows)
        if open_rows.any():
            adversarial[open_rows] = self.found.judge(rows[open_rows], points[open_rows])[0]
        return adversarial

    def _open(self) -> Tensor:
        return ~self.found.broken & (self.found.forwards < self.queries)

    def _rows(self, among: Tensor) -> Tensor:
        return (among & self._open()).nonzero().flatten()

    def _distance(self, rows: Tensor) -> Tensor:
        return self.threat.distance(self.points[rows], self.x[rows]).to(self.x.dtype)

    def _per_image(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (self.x.dim() - 1))
