"""The threat model: which perturbed images count, and the geometry of that set.

The set is a ball of an Lp norm around the clean image, cut with the box of valid pixels. This file is the only owner of
projection, rounding to 8 bits, random starts, distance, containment and the steepest step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal, cast

import torch
from torch import Tensor

from unmask.errors import ThreatError, unknown
from unmask.streams import Streams

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
TITLES: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True)
class ThreatModel:
    """Perturbations of at most `eps` in `norm`, with pixels in [`low`, `high`].

    eps is in pixel units of images in [0, 1] and kept as an exact fraction; build one by `Linf("8/255")`, `L2(0.5)` or
    `L1(12)`. Raises ThreatError for an eps that is negative, not finite, or (Linf) larger than the pixel range, and for
    pixel bounds that are not finite or leave no room.
    """

    norm: Norm
    exact_eps: Fraction
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ThreatError(unknown("norm", self.norm, NORMS))
        if not -math.inf < self.low < self.high < math.inf:
            raise ThreatError(f"Pixel bounds [{self.low}, {self.high}]: expected finite numbers, low below high.")
        if self.exact_eps < 0:
            raise ThreatError(f"eps is {self.exact_eps}: a perturbation cannot have a negative size.")
        if self.norm == "linf" and self.eps > self.high - self.low:
            raise ThreatError(
                f"eps {self.exact_eps} is larger than the pixel range [{self.low:g}, {self.high:g}]. Images are in "
                f"[0, 1] here, so for 8-bit pixel units write '{self.eps:g}/255'."
            )

    @property
    def eps(self) -> float:
        """The size of the ball as a float."""
        return float(self.exact_eps)

    @property
    def tolerance(self) -> float:
        """How far beyond eps a distance may lie by float32 rounding: 1e-6 for Linf, 1e-6 + 1e-5 eps for L2 and L1.

        Pixels beyond [-1, 1] round more coarsely: the 1e-6 grows with the larger pixel bound.
        """
        rounding = 1e-6 * max(1.0, abs(self.low), abs(self.high))
        return rounding if self.norm == "linf" else rounding + 1e-5 * self.eps

    def __str__(self) -> str:
        return f"{TITLES[self.norm]}({_short(self.exact_eps)})"

    def describe(self) -> dict[str, str | float]:
        """Return the threat model as plain values (norm, exact eps, low, high) for records."""
        return {"norm": self.norm, "eps": _short(self.exact_eps), "low": self.low, "high": self.high}

    @classmethod
    def from_description(cls, description: dict[str, str | float]) -> ThreatModel:
        """Rebuild a threat model from `describe()`'s values; low and high may be left out."""
        low, high = float(description.get("low", 0.0)), float(description.get("high", 1.0))
        return threat_model(str(description["norm"]), description["eps"], low, high)

    def with_eps(self, eps: float | str | Fraction) -> ThreatModel:
        """Return the same threat model with another eps."""
        return ThreatModel(self.norm, parse_eps(eps), self.low, self.high)

    def unbounded(self, x: Tensor) -> ThreatModel:
        """Return the threat model whose ball around any image of the shape of x (B, ...) holds the whole pixel box."""
        pixels = x[0].numel()
        reach = {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[self.norm]
        return self.with_eps((self.high - self.low) * reach)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the norm of x_adv - x per image, computed in float64: (B, ...) twice -> (B,)."""
        delta = (x_adv.double() - x.double()).flatten(1)
        order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[self.norm]
        return cast(Tensor, torch.linalg.vector_norm(delta, ord=order, dim=1))

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Say per image whether x_adv lies in the ball (within `tolerance`) and in the pixel box (exactly): (B,) bool.

        Pixels that are not finite are outside.
        """
        return self._in_box(x_adv) & (self.distance(x_adv, x) <= self.eps + self.tolerance)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return the point of ball and box nearest to x_adv in the Euclidean sense: (B, ...) twice -> (B, ...).

        Exact for all three norms; images that lie in ball and box come back as they are. L2 and L1 solve the optimality
        conditions of the joint projection by sorting (for L1 as in Croce & Hein 2021, "Mind the box", Proposition 3.1).
        """
        if self.norm == "linf":
            return x_adv.clamp(x - self.eps, x + self.eps).clamp_(self.low, self.high)
        project = _project_l2 if self.norm == "l2" else _project_l1
        moved = self._moved(x, project((x_adv - x).flatten(1), self._room(x, x_adv - x), self.eps))
        inside = self._in_box(x_adv) & (self.distance(x_adv, x) <= self.eps)
        return torch.where(inside.view(-1, *[1] * (x.dim() - 1)), x_adv, moved)

    def to_8bit(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return an image of 8-bit pixels n / 255 in ball and box near x_adv: (B, ...) twice -> (B, ...).

        Linf: the nearest one. L2 and L1: x_adv shrunk towards x as projections shrink it, by as little as its rounded
        image needs to lie in the ball, and then as many pixels that were just lost as there is room for. Around some x
        off the grid lies no such image: then x itself is rounded, and `contains` says no. Pixels are those of
        `(x * 255).round().byte() / 255`. Raises ThreatError where the pixel bounds are not 0 and 1.
        """
        if (self.low, self.high) != (0.0, 1.0):
            raise ThreatError(
                f"8-bit images have pixels in [0, 1]; this threat model's lie in [{self.low}, {self.high}]."
            )
        # Half of the tolerance is left for the rounding of n / 255 itself.
        reach = self.eps + self.tolerance / 2
        if self.norm == "linf":
            lowest, highest = (255 * (x.double() - reach)).ceil(), (255 * (x.double() + reach)).floor()
            missing = _per_image(torch.any, lowest > highest)
            levels = torch.minimum(torch.maximum((255 * x_adv.double()).round(), lowest), highest)
            levels = torch.where(missing, (255 * x.double()).round(), levels)
        else:
            levels = self._shrunk_levels(x_adv.clamp(0, 1), x, reach)
        return levels.clamp(0, 255).to(x) / 255

    def uniform(self, x: Tensor, streams: Streams) -> Tensor:
        """Return a uniform random point of the ball around x, projected onto the box (for Linf, clipped)."""
        if self.norm == "linf":
            return self.project(x + self.eps * (2 * streams.uniform(x.shape[1:]).to(x) - 1), x)
        size = x.shape[1:].numel()
        radius = streams.uniform(()).to(x) ** (1 / size)
        direction = self._on_sphere(x, streams)
        return self.project(x + self.eps * radius.view(-1, *[1] * (x.dim() - 1)) * direction, x)

    def corner(self, x: Tensor, streams: Streams) -> Tensor:
        """Return a random extreme point: a vertex of ball and box; for L2 a point of the sphere, projected."""
        if self.norm == "linf":
            return self.project(x + self.eps * streams.signs(x.shape[1:]).to(x), x)
        if self.norm == "l2":
            return self.project(x + self.eps * self._on_sphere(x, streams), x)
        signs, order = streams.signs(x.shape[1:]).to(x), streams.uniform(x.shape[1:]).to(x)
        return self._moved(x, _fill(order.flatten(1), self._room(x, signs), self.eps), signs)

    def steepest_step(self, gradient: Tensor, x_adv: Tensor, step_size: Tensor | float) -> Tensor:
        """Return the step of norm `step_size` along which the linearised loss grows most: (B, ...) -> (B, ...).

        Linf: step_size * sign(gradient). L2: the normalised gradient. L1: the coordinates with the largest gradient
        are moved, each up to its pixel bound, until the step is used up, so the step stays in the box from x_adv.
        `step_size` is a number or (B,). A zero gradient gives a zero step.
        """
        size = torch.as_tensor(step_size, dtype=x_adv.dtype, device=x_adv.device).view(-1, *[1] * (x_adv.dim() - 1))
        if self.norm == "linf":
            return size * gradient.sign()
        if self.norm == "l2":
            # By its largest entry first: squares of gradients below 1e-19, as of a confident softmax, would underflow.
            tiny = torch.finfo(gradient.dtype).tiny
            scaled = gradient / _per_image(torch.amax, gradient.abs()).clamp(min=tiny)
            return size * scaled / _per_image(torch.linalg.vector_norm, scaled).clamp(min=tiny)
        amounts = _fill(gradient.abs().flatten(1), self._room(x_adv, gradient), size.flatten(1))
        return amounts.view_as(x_adv) * gradient.sign()

    def _shrunk_levels(self, x_adv: Tensor, x: Tensor, reach: float) -> Tensor:
        """Return the levels 0..255 of `to_8bit` for L2 and L1, float64.

        The shrinking is that of projections onto smaller balls, which pixel by pixel only ever brings levels nearer to
        those of x: so the bisection is exact, and between its two ends lies one level in some pixels.
        """
        origin, delta = x.double().flatten(1), (x_adv.double() - x.double()).flatten(1)
        order = 2 if self.norm == "l2" else 1
        most = delta.abs().amax(1, keepdim=True)

        def shrunk(share: Tensor) -> Tensor:
            cut = (delta.abs() - (1 - share) * most).clamp(min=0) * delta.sign()
            return (255 * (origin + (share * delta if self.norm == "l2" else cut))).round()

        def costs(levels: Tensor) -> Tensor:
            return ((levels.to(x.dtype) / 255).double() - origin).abs() ** order

        allowed = reach**order
        inside, outside = torch.zeros_like(most), torch.ones_like(most)
        for _ in range(40):
            middle = (inside + outside) / 2
            fits = costs(shrunk(middle)).sum(1, keepdim=True) <= allowed
            inside, outside = torch.where(fits, middle, inside), torch.where(fits, outside, middle)
        levels, lost = shrunk(inside), shrunk(outside)
        dearer = costs(lost) - costs(levels)
        cheapest = dearer.argsort(dim=1, stable=True)
        total = costs(levels).sum(1, keepdim=True) + dearer.gather(1, cheapest).cumsum(1)
        regained = torch.zeros_like(delta, dtype=torch.bool).scatter(1, cheapest, total <= allowed)
        return torch.where(regained, lost, levels).view_as(x)

    def _on_sphere(self, x: Tensor, streams: Streams) -> Tensor:
        """Return a random direction of unit norm (L2: uniform; L1: uniform on the surface by exponential draws)."""
        if self.norm == "l2":
            normal = streams.normal(x.shape[1:]).to(x)
            return normal / _per_image(torch.linalg.vector_norm, normal)
        exponential = -torch.log1p(-streams.uniform(x.shape[1:]).to(x))
        total = _per_image(lambda flat, dim: flat.sum(dim), exponential)
        return streams.signs(x.shape[1:]).to(x) * exponential / total

    def _in_box(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return ((flat >= self.low) & (flat <= self.high)).all(1)

    def _room(self, x: Tensor, direction: Tensor) -> Tensor:
        """Return how far every pixel can move in its direction before it leaves the box: (B, D), never negative."""
        room = torch.where(direction > 0, self.high - x, x - self.low)
        return room.clamp(min=0).flatten(1)

    def _moved(self, x: Tensor, move: Tensor, signs: Tensor | None = None) -> Tensor:
        """Return x + move in the box, rounded towards x: rounding many pixels outwards would leave an L1 ball."""
        move = move.view_as(x) if signs is None else move.view_as(x) * signs
        moved = x + move
        outwards = (moved.double() - x.double()).abs() > move.double().abs()
        return torch.where(outwards, moved.nextafter(x), moved).clamp(self.low, self.high)


def Linf(eps: float | str | Fraction, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    """Return the threat model of perturbations whose largest pixel change is eps, e.g. `Linf("8/255")`."""
    return ThreatModel("linf", parse_eps(eps), low, high)


def L2(eps: float | str | Fraction, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    """Return the threat model of perturbations whose Euclidean length is at most eps, e.g. `L2(0.5)`."""
    return ThreatModel("l2", parse_eps(eps), low, high)


def L1(eps: float | str | Fraction, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    """Return the threat model of perturbations whose absolute pixel changes sum to at most eps, e.g. `L1(12)`."""
    return ThreatModel("l1", parse_eps(eps), low, high)


def threat_model(norm: str, eps: float | str | Fraction, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    """Return the threat model of a norm's name ("linf", "l2", "l1", in any case). Raises ThreatError if unknown."""
    if norm.lower() not in NORMS:
        raise ThreatError(unknown("norm", norm, NORMS))
    return ThreatModel(cast(Norm, norm.lower()), parse_eps(eps), low, high)


def parse_eps(eps: float | str | Fraction) -> Fraction:
    """Read eps exactly: "8/255", "76.5/255", "0.3", 0.3 (taken as the decimal that is written) or a Fraction.

    Raises ThreatError for anything that is not one finite number.
    """
    numerator, slash, denominator = str(eps).partition("/")
    try:
        return _number(numerator) / (_number(denominator) if slash else 1)
    except (ValueError, InvalidOperation, ZeroDivisionError):
        raise ThreatError(f"eps is {eps!r}: write a number such as 0.3, or a fraction such as '8/255'.") from None


def _number(text: str) -> Fraction:
    value = Decimal(text.strip())
    # No float holds more digits of exponent, and as a fraction 1e999999999 would fill the memory.
    if not value.is_finite() or abs(value.adjusted()) > 300:
        raise ValueError(text)
    return Fraction(value)


def _short(eps: Fraction) -> str:
    if eps.denominator == 1:
        return str(eps.numerator)
    decimal = (Decimal(eps.numerator) / Decimal(eps.denominator)).normalize()
    if Fraction(decimal) == eps and -decimal.as_tuple().exponent <= 6:  # type: ignore[operator]
        return f"{decimal:f}"
    units = eps * 255
    return f"{units.numerator}/255" if units.denominator == 1 else str(eps)


def _per_image(reduce: Callable[..., Tensor], x: Tensor) -> Tensor:
    return reduce(x.flatten(1), dim=1).view(-1, *[1] * (x.dim() - 1))


def _fill(priority: Tensor, room: Tensor, budget: Tensor | float) -> Tensor:
    """Spend `budget` per row on the coordinates of highest priority, each up to its room: (B, D) -> amounts (B, D)."""
    order = priority.argsort(dim=1, descending=True, stable=True)
    sorted_room = room.gather(1, order)
    spent_before = sorted_room.cumsum(1) - sorted_room
    amounts = torch.minimum((budget - spent_before).clamp(min=0), sorted_room)
    return torch.zeros_like(room).scatter(1, order, amounts)


def _project_l2(delta: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return sign(delta) * min(t |delta|, room) with the largest t <= 1 whose length is at most eps.

    The length grows with t, piecewise: beyond t = room/|delta| a coordinate stays at its room. Sorting these
    breakpoints turns the equation into one square root per row.
    """
    size = delta.abs().double()
    room = room.double()
    breakpoints = torch.where(size > 0, room / size.clamp(min=1e-300), torch.inf)
    order = breakpoints.argsort(dim=1)
    breakpoints, size_sorted, room_sorted = breakpoints.gather(1, order), size.gather(1, order), room.gather(1, order)
    fixed = room_sorted.square().cumsum(1) - room_sorted.square()
    free = size_sorted.square().flip(1).cumsum(1).flip(1)
    at_breakpoint = fixed + torch.nan_to_num(breakpoints.square() * free, posinf=torch.inf)
    segment = (at_breakpoint < eps**2).sum(1, keepdim=True).clamp(max=delta.shape[1] - 1)
    t_squared = (eps**2 - fixed.gather(1, segment)).clamp(min=0) / free.gather(1, segment).clamp(min=1e-300)
    kept = torch.minimum(size * t_squared.sqrt(), room)
    clipped = torch.minimum(size, room)
    inside = clipped.square().sum(1, keepdim=True) <= eps**2
    return (torch.where(inside, clipped, torch.minimum(kept, clipped)) * delta.sign()).to(delta.dtype)


def _project_l1(delta: Tensor, room: Tensor, eps: float) -> Tensor:
    """Return sign(delta) * min(max(|delta| - tau, 0), room) with the smallest tau >= 0 whose sum is at most eps.

    The sum falls with tau, piecewise linearly, with slopes that change at |delta| - room and |delta|.
    """
    size, room = delta.abs().double(), room.double()
    upper = (size - room).clamp(min=0)
    knots = torch.cat([upper, size], dim=1)
    order = knots.argsort(dim=1)
    knots = knots.gather(1, order)
    change = torch.cat([-torch.ones_like(upper), torch.ones_like(size)], dim=1).gather(1, order)
    slope = change.cumsum(1)
    gaps = knots.diff(dim=1)
    start = torch.minimum(size, room).sum(1, keepdim=True)
    total = torch.cat([start, start + (slope[:, :-1] * gaps).cumsum(1)], dim=1)
    segment = ((total > eps).sum(1, keepdim=True) - 1).clamp(min=0)
    steepness = -slope.gather(1, segment).clamp(max=-1)
    tau = knots.gather(1, segment) + (total.gather(1, segment) - eps) / steepness
    tau = torch.where(start > eps, tau, torch.zeros_like(tau))
    return (torch.minimum((size - tau).clamp(min=0), room) * delta.sign()).to(delta.dtype)
