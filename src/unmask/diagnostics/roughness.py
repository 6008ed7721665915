"""Is the loss smooth enough for its gradient to say where to go?"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unmask.attacks.problem import input_gradient, pose
from unmask.diagnostics.finding import Finding, Status
from unmask.diagnostics.sample import Sample
from unmask.losses import margin

POINTS = 5
NEARBY = 1 / 50
ROUGH, SHATTERED, CURVED = 0.4, 0.1, 0.7


def roughness(sample: Sample, x_adv: Tensor) -> Finding:
    """Compare gradients of the margin near each image, and along the straight path to the point x_adv (B, ...).

    `nearby_cosine`: between the gradients at the image and at a random point eps/50 away; near 1 where the loss is
    smooth, near 0 where it ripples, however weak the ripple. `path_cosine`: between gradients at neighbours among five
    points of the path (gradient coherence along an attack). `nonlinearity`: |m(x') - m(x) - g.(x' - x)| over
    |m(x') - m(x)| + |g.(x' - x)|, in [0, 1] (local linearity, Qin et al. 2019). Six forwards and six backwards per
    image; no backwards where the model has no graph.
    """
    step = sample.threat.with_eps(NEARBY * sample.threat.eps)
    nearby = step.corner(sample.x, sample.streams.child("roughness"))
    path = [sample.x + share * (x_adv - sample.x) for share in torch.linspace(0, 1, POINTS).tolist()]
    slopes, values = zip(*(_slope(sample, point) for point in (nearby, *path)), strict=True)
    backwards = sum(value.requires_grad for value in values) * len(sample)
    values = tuple(value.detach() for value in values)
    beside, *along = slopes
    local = cosine_similarity(along[0], beside, dim=1)
    neighbours = [cosine_similarity(one, other, dim=1) for one, other in pairwise(along)]
    change, promised = values[-1] - values[1], (along[0] * (x_adv - sample.x).flatten(1)).sum(1)
    error = (change - promised).abs() / (change.abs() + promised.abs()).clamp(min=1e-12)
    blocked = bool((torch.stack(slopes) == 0).all())
    nearby_cosine, path_cosine = _median(local), _median(torch.stack(neighbours).mean(0))
    nonlinearity = _median(error)
    status: Status = "not_applicable" if blocked else "ok"
    if not blocked and (nearby_cosine < ROUGH or nonlinearity > CURVED):
        status = "fail" if nearby_cosine < SHATTERED else "warn"
    return Finding(
        "roughness",
        status,
        "There are no gradients to compare."
        if blocked
        else f"A fiftieth of eps away, gradients keep a cosine of {nearby_cosine:.2f} with the image's own; along the "
        f"way to the adversarial image, {path_cosine:.2f} from step to step."
        + (" The loss surface is rough." if nearby_cosine < ROUGH else "")
        + (" At the image the gradient does not show the way to the adversarial one." if nonlinearity > CURVED else ""),
        {
            "nearby_cosine": nearby_cosine,
            "path_cosine": path_cosine,
            "nonlinearity": nonlinearity,
            "n": len(sample),
        },
        "Average gradients over noise (unmask.attacks.gradient.smoothed), take large steps, start often."
        if status in ("warn", "fail")
        else "",
        forwards=(POINTS + 1) * len(sample),
        backwards=backwards,
    )


def _slope(sample: Sample, here: Tensor) -> tuple[Tensor, Tensor]:
    problem = pose(sample.model, sample.x, sample.y, threat=sample.threat, generator=sample.streams, loss=margin)
    leaf, _, values = problem.forward(here, graph=True)
    return input_gradient(values, leaf).flatten(1), values


def _median(values: Tensor) -> float:
    found = values.double().median().item()
    return found if math.isfinite(found) else 0.0
