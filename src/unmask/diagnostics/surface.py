"""What does the loss look like around an image? (Mosbach et al. 2018, surfaces; Shafahi et al. 2018, Figures 5, 9.)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor

from unmask.contract import check_images, check_labels, logits_of
from unmask.diagnostics.eigenvectors import eigenvectors
from unmask.diagnostics.falls import BATCH_SIZE, at_least, check_sizes
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Keep, Sample, anew
from unmask.errors import AuditError, ModelError, unknown
from unmask.losses import cross_entropy

DIRECTIONS = ("random", "adversarial", "eigen-1", "eigen-2")
NOTICED = 0.01
JAGGED = 2.0


class _Picture(TypedDict):
    loss: list[list[float]]
    flat: list[str]
    classes: int
    forwards: int
    backwards: int


def surface(
    sample: Sample,
    *,
    directions: tuple[str, str] = ("random", "adversarial"),
    span: float | None = None,
    points: int = 41,
    eigen_steps: int = 20,
    batch_size: int = BATCH_SIZE,
    keep: Keep[Any] = anew,
    watch: Callable[[int, int], None] | None = None,
) -> Finding:
    """Take the cross-entropy of x + a d0 + b d1 for a and b at `points` places (odd, 0 in the middle) of +-span.

    Directions have a largest entry of 1, so that a and b are in pixels; points outside of the pixel box are not
    clipped. "random": Rademacher signs, drawn anew where named twice. "adversarial": the sign of the cross-entropy's
    gradient at x. "eigen-1", "eigen-2": the eigenvectors of its Hessian at x of the largest eigenvalues by size, from
    `eigen_steps` steps of the Lanczos method. `span`: by default that of the ball's corners (eps for Linf); the paper's
    surfaces span eps/2.

    Every line of the grid has a number of turns: how often the loss goes from rising to falling or back, where moves
    of less than 1% of the image's range do not count. A convex or monotone loss turns at most once. `turns` is the mean
    over lines and images, and above 2 warns: gradients on such a surface lead to its nearest bump. Few turns prove
    little: ripples may be finer than the grid, or lie along other directions. Warns as well where the gradient is zero.
    A Hessian of rank one has no second eigenvector: that direction is zero then, and `flat` counts it. `watch` is told
    how many of how many images are done; each is a part that `keep` keeps.

    Costs per image points^2 forwards, a forward and a backward for a direction other than random (one for both), and a
    backward per step of the Lanczos method. Raises AuditError for unknown or repeated directions, unusable span,
    points, eigen_steps or batch size, and for a sample without images; ModelError for eigenvectors of a model that
    cannot be differentiated twice.
    """
    size = _corner_span(sample) if span is None else span
    check_slice(directions, points)
    _check(sample, size)
    at_least(2, eigen_steps=eigen_steps)
    at_least(1, batch_size=batch_size)
    axis = [size * (2 * place / (points - 1) - 1) for place in range(points)]
    settings = f"{directions[0]}, {directions[1]}, span {size!r}, {points} points, {eigen_steps} eigen steps"
    found: list[_Picture] = []
    for place, example in enumerate(sample.ids):
        image = sample.select(torch.tensor([place], device=sample.x.device))
        run = partial(_picture, image, directions, axis, eigen_steps, batch_size)
        found.append(keep(f"surface, image {example}, {settings}", run))
        if watch is not None:
            watch(place + 1, len(sample))
    turns = sum(_turns(torch.tensor(part["loss"])) for part in found) / len(found)
    jagged, blocked = turns > JAGGED, sum("adversarial" in part["flat"] for part in found)
    values = [value for part in found for row in part["loss"] for value in row]
    summary = (
        f"Along {directions[0]} and {directions[1]} directions the loss lies in [{min(values) + 0.0:.3g}, "
        f"{max(values):.3g}] and turns {turns:.1f} times per line{': the surface is jagged' if jagged else ''}."
    )
    if blocked:
        summary += f" On {blocked} of {len(sample)} images the gradient is zero."
    status: Status = "warn" if jagged or blocked else "ok"
    return Finding(
        "surface",
        status,
        summary,
        {
            "ids": list(sample.ids),
            "directions": list(directions),
            "axis": axis,
            "loss": [part["loss"] for part in found],
            "guarantee": math.log(found[0]["classes"]),
            "eps": sample.threat.eps,
            "n": len(sample),
            "turns": turns,
            "flat": sum(bool(part["flat"]) for part in found),
        },
        "Do not believe attacks of few small steps: take large steps, many starts, and gradients averaged over noise."
        if jagged
        else "Attack the margin: it has a slope where the cross-entropy has none."
        if blocked
        else "",
        sum(part["forwards"] for part in found),
        sum(part["backwards"] for part in found),
    )


def _picture(
    image: Sample, directions: tuple[str, str], axis: Sequence[float], eigen_steps: int, batch_size: int
) -> _Picture:
    """Return the loss on the grid around one image, and the names of directions that are zero."""
    found, forwards, backwards = _directions(image, directions, eigen_steps)
    places = torch.tensor(axis, dtype=image.x.dtype, device=image.x.device)
    grid = torch.cartesian_prod(places, places)
    losses: list[float] = []
    with torch.no_grad():
        for part in grid.split(batch_size):
            here = image.x + torch.einsum("gd,d...->g...", part, torch.cat(found))
            logits = logits_of(image.model, here)
            losses += cross_entropy(logits, image.y.expand(len(here))).clamp(max=torch.finfo(logits.dtype).max).tolist()
    width = len(axis)
    return {
        "loss": [losses[begin : begin + width] for begin in range(0, len(losses), width)],
        "flat": [name for name, direction in zip(directions, found, strict=True) if not direction.any()],
        "classes": logits.shape[1],
        "forwards": forwards + len(grid),
        "backwards": backwards,
    }


def _directions(image: Sample, names: tuple[str, str], eigen_steps: int) -> tuple[list[Tensor], int, int]:
    """Return the two directions (1, C, H, W) at one image, and the passes that they took."""
    streams, shape = image.streams.child("surface"), image.x.shape[1:]
    signs = [streams.child("random", place).signs(shape).to(image.x) for place in range(2)]
    if names == ("random", "random"):
        return signs, 0, 0
    curved = any(name.startswith("eigen") for name in names)
    gradient, x, backwards = _gradient(image, curved)
    known = {"adversarial": gradient.detach().sign()}
    if curved:
        start = streams.child("lanczos").normal(shape).to(x).flatten()
        vectors, products = eigenvectors(partial(_product, gradient, x), start, eigen_steps, 2)
        known |= {f"eigen-{place}": vector.view_as(x) for place, vector in enumerate(vectors, start=1)}
        backwards += products * gradient.requires_grad
    return [signs[place] if name == "random" else known[name] for place, name in enumerate(names)], 1, backwards


@torch.enable_grad()
def _gradient(image: Sample, again: bool) -> tuple[Tensor, Tensor, int]:
    """Return the cross-entropy's gradient by the image, to be differentiated `again`, the leaf, and backward passes."""
    x = image.x.detach().requires_grad_()
    values = cross_entropy(logits_of(image.model, x), image.y)
    if not values.requires_grad:
        return torch.zeros_like(x), x, 0
    (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=again, allow_unused=True)
    gradient = torch.zeros_like(x) if gradient is None else torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)
    return gradient, x, 1


@torch.enable_grad()
def _product(gradient: Tensor, x: Tensor, vector: Tensor) -> Tensor:
    """Return the Hessian times a vector (D,)."""
    if not gradient.requires_grad and not gradient.any():
        return torch.zeros_like(vector)
    try:
        (found,) = torch.autograd.grad(gradient, x, vector.view_as(x), retain_graph=True)
    except RuntimeError as error:
        raise ModelError(
            f"The model cannot be differentiated twice ({str(error).splitlines()[0]}), so the eigenvectors of its loss "
            "are not to be had. Take the directions random and adversarial."
        ) from error
    return torch.nan_to_num(found, posinf=0.0, neginf=0.0).flatten()


def _turns(loss: Tensor) -> float:
    """Return how often the loss (P, P) changes between rising and falling, as a mean over rows and columns.

    A turn counts once the loss has moved back by NOTICED of its range, so that neither noise nor the grid makes any.
    """
    noticed = NOTICED * float(loss.max() - loss.min())
    lines: list[list[float]] = [*loss.tolist(), *loss.T.tolist()]
    return sum(_turns_of(line, noticed) for line in lines) / len(lines)


def _turns_of(line: Sequence[float], noticed: float) -> int:
    low = high = line[0]
    rising: bool | None = None
    turns = 0
    for value in line:
        low, high = min(low, value), max(high, value)
        if rising is not False and high - value > noticed:
            turns, rising, low = turns + (rising is True), False, value
        elif rising is not True and value - low > noticed:
            turns, rising, high = turns + (rising is False), True, value
    return turns


def _corner_span(sample: Sample) -> float:
    """Return how far signs lead to the edge of the ball, in pixels."""
    pixels = sample.x.shape[1:].numel()
    return sample.threat.eps / {"linf": 1.0, "l2": math.sqrt(pixels), "l1": pixels}[sample.threat.norm]


def check_slice(directions: tuple[str, str], points: int) -> None:
    """Raise AuditError for directions or a number of points that make no surface."""
    if len(directions) != 2:
        raise AuditError(f"{len(directions)} directions came; expected two of {', '.join(DIRECTIONS)}.")
    for name in directions:
        if name not in DIRECTIONS:
            raise AuditError(unknown("direction", name, DIRECTIONS))
    if directions[0] == directions[1] != "random":
        raise AuditError(f"Both directions are '{directions[0]}'; expected two different ones, or random twice.")
    if points < 3 or points % 2 == 0:
        raise AuditError(f"points is {points}; expected an odd number, 3 or more, so that the image is in the middle.")


def _check(sample: Sample, span: float) -> None:
    check_sizes("Span in pixels", span)
    if not len(sample):
        raise AuditError("There are no images to look at; give at least one.")
    check_images(sample.x, sample.threat.low, sample.threat.high)
    check_labels(sample.y, len(sample))
