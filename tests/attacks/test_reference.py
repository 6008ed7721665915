"""The attacks against plain loops, written here step by step as the papers give them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.attacks import AttackResult, bim, cosine_pgd, fgsm, mi_fgsm, pgd, r_fgsm
from unmask.attacks.ascent import climb
from unmask.attacks.problem import pose
from unmask.attacks.start import at, clean, random_step, uniform
from unmask.attacks.stepper import Stepper, adam, cosine, decaying, fixed
from unmask.losses import margin
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, ThreatModel

Ascend = Callable[[Tensor, Tensor, int], Tensor]
STEPS = 10


@pytest.fixture
def net(network: Callable[..., nn.Module], x: Tensor) -> nn.Module:
    """Return a network to which the images look different: it predicts more than one class."""
    net = network(4).double().eval()
    with torch.no_grad():
        net.get_parameter("body.3.bias").sub_(net(x).mean(0))
    return net


@pytest.fixture
def x() -> Tensor:
    """Return images whose pixels are far from the box for the first half, and touch it for the other."""
    x = torch.rand(12, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:6] = 0.4 + 0.2 * x[:6]
    x[6:, 0] = x[6:, 0].round()
    return x


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).argmax(1)


def gradient(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    x_adv = x_adv.detach().clone().requires_grad_(True)
    F.cross_entropy(model(x_adv), y, reduction="sum").backward()
    assert x_adv.grad is not None
    return x_adv.grad


def simplex_ball(delta: Tensor, eps: float) -> Tensor:
    """Project the rows of delta onto the L1 ball (Duchi et al. 2008), one row at a time."""
    rows = []
    for row in delta.flatten(1).numpy():
        size = np.sort(np.abs(row))[::-1]
        cut = (np.cumsum(size) - eps) / np.arange(1, len(row) + 1)
        tau = max(cut[np.nonzero(size > cut)[0][-1]], 0.0)
        rows.append(np.sign(row) * np.maximum(np.abs(row) - tau, 0))
    return torch.from_numpy(np.stack(rows)).view_as(delta)


def step(threat: ThreatModel, x_adv: Tensor, x: Tensor, slope: Tensor, size: float) -> Tensor:
    """Take one projected steepest step, by the textbook; L2 and L1 only for images far from the box."""
    if threat.norm == "linf":
        moved = x_adv + size * slope.sign()
        return torch.clamp(torch.min(torch.max(moved, x - threat.eps), x + threat.eps), 0.0, 1.0)
    flat = slope.flatten(1)
    if threat.norm == "l2":
        moved = x_adv + size * (flat / flat.norm(dim=1, keepdim=True)).view_as(x)
        delta = (moved - x).flatten(1)
        return x + (delta * (threat.eps / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)).view_as(x)
    best = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0)
    return x + simplex_ball(x_adv + size * (best * flat.sign()).view_as(x) - x, threat.eps)


def iterates(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, start: Tensor, stepper: Stepper, steps: int = STEPS
) -> list[Tensor]:
    """Return the library's iterates: the n-th is where a climb of n steps of the same stepper ends."""
    problem = pose(net, x, y, threat=threat, generator=None)
    return [climb(problem, start=at(start), stepper=stepper, steps=n) for n in range(1, steps + 1)]


def close(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


CASES = [(Linf("0.1"), slice(0, 12)), (L2("0.3"), slice(0, 6)), (L1("0.1"), slice(0, 6))]
every_threat = pytest.mark.parametrize(("threat", "rows"), CASES, ids=[str(threat) for threat, _ in CASES])


@every_threat
def test_pgds_iterates_are_those_of_a_plain_loop(
    threat: ThreatModel, rows: slice, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    x, y = x[rows], y[rows]
    start = threat.uniform(x, Streams.derive(0, range(len(x))))
    x_adv, expected = start, []
    for _ in range(STEPS):
        x_adv = step(threat, x_adv, x, gradient(net, x_adv, y), threat.eps / 4)
        expected.append(x_adv)
    close(iterates(net, x, y, threat, start, fixed(threat.eps / 4)), expected)


def test_pgds_iterates_in_float32_too(net: nn.Module, x: Tensor, y: Tensor) -> None:
    net, x, threat = net.float(), x.float(), Linf("0.1")
    start = threat.uniform(x, Streams.derive(0, range(len(x))))
    x_adv, expected = start, []
    for _ in range(STEPS):
        x_adv = step(threat, x_adv, x, gradient(net, x_adv, y), threat.eps / 4)
        expected.append(x_adv)
    close(iterates(net, x, y, threat, start, fixed(threat.eps / 4)), expected)


@every_threat
def test_the_accumulated_gradient_is_that_of_mi_fgsm(
    threat: ThreatModel, rows: slice, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    x, y = x[rows], y[rows]
    x_adv, g, expected = x, torch.zeros_like(x), []
    for _ in range(STEPS):
        slope = gradient(net, x_adv, y)
        g = 0.9 * g + slope / slope.abs().sum(dim=(1, 2, 3), keepdim=True)
        x_adv = step(threat, x_adv, x, g, threat.eps / 4)
        expected.append(x_adv)
    close(iterates(net, x, y, threat, x, fixed(threat.eps / 4, accumulate=0.9)), expected)


@every_threat
def test_cosine_steps_with_momentum_are_apgds(
    threat: ThreatModel, rows: slice, net: nn.Module, x: Tensor, y: Tensor
) -> None:
    x, y = x[rows], y[rows]
    start = threat.corner(x, Streams.derive(0, range(len(x))))
    # Croce & Hein 2020, Algorithm 1, lines 4 to 8; the first step has no last move.
    x_adv, previous = start, start
    for k in range(STEPS):
        size = 2 * threat.eps * (1 + math.cos(math.pi * k / STEPS)) / 2
        z = step(threat, x_adv, x, gradient(net, x_adv, y), size)
        mixed = z if k == 0 else x_adv + 0.75 * (z - x_adv) + 0.25 * (x_adv - previous)
        previous, x_adv = x_adv, step(threat, mixed, x, torch.ones_like(x), 0.0)
    problem = pose(net, x, y, threat=threat, generator=None)
    close([climb(problem, start=at(start), stepper=cosine(2.0, momentum=0.75), steps=STEPS)], [x_adv])


def test_decaying_steps_shrink_as_they_should(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat, x_adv, expected = Linf("0.1"), x, []
    for size in (0.05, 0.05, 0.05, 0.025, 0.025, 0.025, 0.0125, 0.0125, 0.0125, 0.00625):
        x_adv = step(threat, x_adv, x, gradient(net, x_adv, y), size)
        expected.append(x_adv)
    close(iterates(net, x, y, threat, x, decaying(0.5, 0.5, every=3)), expected)


def test_adam_is_torchs(net: nn.Module, x: Tensor, y: Tensor) -> None:
    point = nn.Parameter(x.clone())
    optimizer, expected = torch.optim.Adam([point], lr=0.02, maximize=True), []
    for _ in range(STEPS):
        point.grad = gradient(net, point, y)
        optimizer.step()
        with torch.no_grad():
            point.copy_(torch.clamp(torch.min(torch.max(point, x - 0.1), x + 0.1), 0.0, 1.0))
        expected.append(point.detach().clone())
    close(iterates(net, x, y, Linf("0.1"), x, adam(0.02)), expected)


# -- whole attacks: the best iterate, and nothing after the first break ----------------------------------------------


def attacked(net: nn.Module, y: Tensor, points: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Judge iterates one image at a time: the first that breaks, else the one of the largest margin."""
    x_adv, best, broken, seen = [], [], [], []
    for i in range(len(y)):
        margins = [margin(net(point[i : i + 1]), y[i : i + 1]).item() for point in points]
        first = next((k for k, value in enumerate(margins) if value > 0), None)
        chosen = int(np.argmax(margins)) if first is None else first
        x_adv.append(points[chosen][i])
        best.append(margins[chosen])
        broken.append(first is not None)
        seen.append(len(points) if first is None else first + 1)
    return torch.stack(x_adv), torch.tensor(best, dtype=torch.float64), torch.tensor(broken), torch.tensor(seen)


def agrees(result: AttackResult, expected: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x_adv, best, broken, seen = expected
    torch.testing.assert_close(result.x_adv, x_adv, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.margin, best, rtol=0, atol=1e-6)
    assert torch.equal(result.broken, broken) and torch.equal(result.forwards, seen)
    assert 0 < broken.sum() < len(broken)  # else the test would see only one of the two rules


def loop(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, start: Tensor, size: float, steps: int
) -> list[Tensor]:
    points = [start]
    for _ in range(steps):
        points.append(step(threat, points[-1], x, gradient(net, points[-1], y), size))
    return points


def test_fgsm_bim_and_pgd_are_their_plain_loops(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat = Linf("0.06")
    agrees(fgsm(net, x, y, threat=threat), attacked(net, y, loop(net, x, y, threat, x, 0.06, 1)))
    agrees(bim(net, x, y, threat=threat, steps=8), attacked(net, y, loop(net, x, y, threat, x, 0.06 / 8, 8)))
    agrees(
        bim(net, x, y, threat=threat, steps=6, step_size=0.03), attacked(net, y, loop(net, x, y, threat, x, 0.03, 6))
    )
    start = threat.uniform(x, Streams.derive(1, range(len(x))))
    agrees(
        pgd(net, x, y, threat=threat, steps=12, start=at(start)),
        attacked(net, y, loop(net, x, y, threat, start, 4 * 0.06 / (3 * 12), 12)),
    )


def test_mi_fgsm_is_its_plain_loop(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat, points, g = Linf("0.06"), [x], torch.zeros_like(x)
    for _ in range(8):
        slope = gradient(net, points[-1], y)
        g = g + slope / slope.abs().sum(dim=(1, 2, 3), keepdim=True)
        points.append(step(threat, points[-1], x, g, 0.06 / 8))
    agrees(mi_fgsm(net, x, y, threat=threat, steps=8), attacked(net, y, points))


def test_r_fgsm_is_a_random_step_and_a_steepest_one(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat, streams = Linf("0.06"), Streams.derive(2, range(len(x)))
    noise = streams.child("restart", 0).normal(x.shape[1:]).double()
    start = (x + 0.03 * noise.sign()).clamp(0, 1)
    points = [start, step(threat, start, x, gradient(net, start, y), 0.03)]
    agrees(r_fgsm(net, x, y, threat=threat, generator=streams), attacked(net, y, points))


def test_cosine_pgd_climbs_the_margin_from_a_corner(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat, streams = Linf("0.06"), Streams.derive(2, range(len(x)))
    point = threat.corner(x, streams.child("restart", 0))
    points = [point]
    for k in range(6):
        leaf = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(margin(net(leaf), y).sum(), leaf)
        point = step(threat, point, x, slope, 1.5 * 0.06 * (1 + math.cos(math.pi * k / 6)) / 2)
        points.append(point)
    result = cosine_pgd(net, x, y, threat=threat, steps=6, step_share=1.5, momentum=None, generator=streams)
    agrees(result, attacked(net, y, points))


def test_starts_are_where_they_say(net: nn.Module, x: Tensor, y: Tensor) -> None:
    threat, streams = Linf("0.06"), Streams.derive(2, range(len(x)))

    def begin(start: Callable[..., tuple[Tensor, int, int]]) -> Tensor:
        return start(pose(net, x, y, threat=threat, generator=Streams.derive(2, range(len(x)))))[0]

    assert torch.equal(begin(clean()), x)
    assert torch.equal(begin(uniform()), threat.uniform(x, streams))
    assert torch.equal(begin(at(x + 1)), threat.project(x + 1, x))
    assert threat.distance(begin(random_step(0.25)), x).max() <= 0.015 + 1e-12
