"""Attacks that look for the nearest adversarial point find it where it is known, and stop once the ball holds one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog, minimize
from torch import Tensor, nn

from unmask.attacks import fab, fmn, minimal_perturbations
from unmask.attacks.fmn import onto_balls
from unmask.attacks.hyperplane import distance_to_hyperplane, move_to_hyperplane
from unmask.errors import AuditError, ThreatError
from unmask.streams import Streams
from unmask.threat import L1, L2, NORMS, Linf, Norm, threat_model

every_norm = pytest.mark.parametrize("norm", NORMS)
METHODS = ["fab", "fmn"]
SMALL = {"linf": Linf("0.05"), "l2": L2("0.2"), "l1": L1("0.6")}


# -- hyperplanes -----------------------------------------------------------------------------------------------------


def least_norm(norm: Norm, x: np.ndarray, w: np.ndarray, gap: float) -> float:
    """Return the least norm of d with w . d = gap and x + d in [0, 1], by means other than the library's."""
    size = len(x)
    if norm == "l2":
        sign = np.sign(gap)
        bounds = np.stack([-x, 1 - x])

        def excess(level: float) -> float:
            return float(sign * w @ np.clip(level * sign * w, *bounds) - abs(gap))

        return float(np.linalg.norm(np.clip(brentq(excess, 0, 1e6, xtol=1e-14) * sign * w, *bounds)))
    parts = [(0, room) for room in (*(1 - x), *x)]
    if norm == "l1":
        return float(linprog(np.ones(2 * size), A_eq=[[*w, *-w]], b_eq=[gap], bounds=parts).fun)
    below = np.hstack([np.eye(2 * size), -np.ones((2 * size, 1))])
    cost, rows = np.eye(2 * size + 1)[-1], [[*w, *-w, 0]]
    return float(linprog(cost, below, np.zeros(2 * size), rows, [gap], bounds=[*parts, (0, None)]).fun)


def planes(reach: float, size: int = 7, count: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, normals and gaps of both signs, at `reach` of what the box leaves room for."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.rand(count, size, generator=generator, dtype=torch.float64) for _ in range(2))
    x[:, 0], w = x[:, 0].round(), 2 * w - 1
    w[:, 1] = 0
    most, least = (w * (w > 0).double().sub(x)).sum(1), (w * (w < 0).double().sub(x)).sum(1)
    return x, w, reach * torch.where(torch.arange(count) % 2 == 0, most, least)


@every_norm
@pytest.mark.parametrize("reach", [0.05, 0.5, 0.95])
def test_the_move_to_a_hyperplane_is_the_least_one(norm: Norm, reach: float) -> None:
    x, w, gap = planes(reach)
    move = move_to_hyperplane(x, w, gap, norm=norm, low=0.0, high=1.0)
    torch.testing.assert_close((w * move).sum(1), gap)
    assert (x + move).min() >= 0 and (x + move).max() <= 1 + 1e-15
    found = threat_model(norm, 0).distance(x + move, x)
    expected = [least_norm(norm, *row) for row in zip(x.numpy(), w.numpy(), gap.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_the_move_in_l2_is_that_of_a_quadratic_program() -> None:
    x, w, gap = (part[:4].numpy() for part in planes(0.8))
    move = move_to_hyperplane(*map(torch.tensor, (x, w, gap)), norm="l2", low=0.0, high=1.0).numpy()
    for image, normal, distance, found in zip(x, w, gap, move, strict=True):
        on_plane = {"type": "eq", "fun": lambda d, normal=normal, distance=distance: normal @ d - distance}
        room = list(zip(-image, 1 - image, strict=True))
        expected = minimize(lambda d: d @ d, np.zeros(7), method="SLSQP", bounds=room, constraints=[on_plane]).x
        np.testing.assert_allclose(found, expected, atol=1e-5)


@every_norm
def test_a_hyperplane_out_of_reach_is_approached_as_far_as_the_box_goes(norm: Norm) -> None:
    x, w, gap = planes(1.5)
    move = move_to_hyperplane(x, w, gap, norm=norm, low=0.0, high=1.0)
    torch.testing.assert_close((w * move).sum(1), gap / 1.5)
    assert (x + move).min() >= 0 and (x + move).max() <= 1 + 1e-15


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 2000.0])
def test_neither_the_scale_of_the_model_nor_float32_moves_a_hyperplane(norm: Norm, scale: float) -> None:
    x, w, gap = planes(0.5)
    expected = move_to_hyperplane(x, w, gap, norm=norm, low=0.0, high=1.0)
    found = move_to_hyperplane(x.float(), (w * scale).float(), (gap * scale).float(), norm=norm, low=0.0, high=1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@every_norm
def test_distances_are_those_of_the_moves_where_the_box_is_far(norm: Norm) -> None:
    x, w, gap = planes(0.5)
    move = move_to_hyperplane(x, w, gap, norm=norm, low=-99.0, high=99.0)
    torch.testing.assert_close(distance_to_hyperplane(w, gap, norm=norm), threat_model(norm, 0).distance(x + move, x))


@every_norm
def test_without_a_normal_there_is_no_move_and_no_distance(norm: Norm) -> None:
    x, nothing = torch.full((1, 3), 0.5), torch.zeros(1, 3)
    assert (move_to_hyperplane(x, nothing, torch.ones(1), norm=norm, low=0.0, high=1.0) == 0).all()
    assert distance_to_hyperplane(nothing, torch.ones(1), norm=norm).isinf().all()


# -- distances -------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_planes(linear: Callable[..., nn.Module]) -> Callable[..., tuple[nn.Module, Tensor, Tensor]]:
    def make(classes: int, count: int = 8, size: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
        """Return a linear model, images and the model's own answers."""
        generator = torch.Generator().manual_seed(classes)
        weights = torch.randn(classes, size, generator=generator, dtype=torch.float64)
        bias = -weights.sum(1) / 2
        x = torch.rand(count, size, generator=generator, dtype=torch.float64).view(count, 3, size // 3, 1)
        model = linear(weights, bias)
        return model, x, model(x).argmax(1)

    return make


def exact_distances(model: Any, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Return the least norm over all wrong classes' hyperplanes that the box reaches."""
    weights, logits, flat = model.weights.detach(), model(x).detach(), x.flatten(1)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for row in range(len(x)):
        for wrong in set(range(len(weights))) - {int(y[row])}:
            w, gap = weights[wrong] - weights[y[row]], float(logits[row, y[row]] - logits[row, wrong])
            no_box = gap / float(torch.linalg.vector_norm(w, ord={"linf": 1, "l2": 2, "l1": torch.inf}[norm]))
            if no_box < best[row] and float((w * ((w > 0).double() - flat[row])).sum()) > gap:
                best[row] = min(best[row].item(), least_norm(norm, flat[row].numpy(), w.numpy(), gap))
    return best


@every_norm
@pytest.mark.parametrize("method", METHODS)
def test_the_distance_to_a_plane_is_found_within_a_hundredth(
    method: str, norm: Norm, make_planes: Callable[..., tuple[nn.Module, Tensor, Tensor]]
) -> None:
    model, x, y = make_planes(2)
    exact = exact_distances(model, x, y, norm)
    x_adv, distance = minimal_perturbations(model, x, y, norm=norm, method=method)
    assert (distance >= exact * (1 - 1e-9)).all() and (distance <= 1.01 * exact).all()
    assert (model(x_adv).argmax(1) != y).all()
    torch.testing.assert_close(distance, threat_model(norm, 0).distance(x_adv, x))
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@every_norm
@pytest.mark.parametrize("classes", [3, 10, 200])
def test_fab_finds_the_nearest_of_many_planes(
    classes: int, norm: Norm, make_planes: Callable[..., tuple[nn.Module, Tensor, Tensor]]
) -> None:
    model, x, y = make_planes(classes, count=3)
    exact = exact_distances(model, x, y, norm)
    distance = minimal_perturbations(model, x, y, norm=norm, method="fab", steps=10)[1]
    assert (distance >= exact * (1 - 1e-9)).all() and (distance <= 1.01 * exact).all()


@every_norm
@pytest.mark.parametrize("classes", [3, 10, 200])
def test_fmn_finds_the_nearest_of_many_planes_for_most_images(
    classes: int, norm: Norm, make_planes: Callable[..., tuple[nn.Module, Tensor, Tensor]]
) -> None:
    model, x, y = make_planes(classes)
    exact = exact_distances(model, x, y, norm)
    distance = minimal_perturbations(model, x, y, norm=norm)[1]
    assert (distance >= exact * (1 - 1e-9)).all() and distance.isfinite().all()
    assert (distance <= 1.01 * exact).double().mean() > 0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-4, 2000.0])
def test_the_scale_of_the_logits_changes_no_distance(
    method: str, scale: float, network: Callable[..., nn.Module]
) -> None:
    model, x = network(3).double(), torch.rand(6, 2, 4, 4, dtype=torch.float64, generator=seeded())
    y = model(x).argmax(1)
    expected = minimal_perturbations(model, x, y, norm="l2", method=method, steps=20)[1]
    found = minimal_perturbations(lambda x: scale * model(x), x, y, norm="l2", method=method, steps=20)[1]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_wrong_already_has_no_distance_and_what_cannot_be_broken_an_infinite_one(
    method: str, linear: Callable[..., nn.Module]
) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    model = linear(torch.tensor([[0.0] * 4, [1.0] * 4]), torch.tensor([0.0, -9.0]))
    x_adv, distance = minimal_perturbations(model, x, torch.tensor([0, 1]), method=method, steps=5)
    assert distance.tolist() == [torch.inf, 0] and torch.equal(x_adv, x)


def test_unknown_methods_and_norms_are_refused(network: Callable[..., nn.Module]) -> None:
    x, y = torch.rand(2, 2, 4, 4), torch.tensor([0, 1])
    with pytest.raises(AuditError, match=r"no method 'fan'\. Did you mean 'f.*Known: fab, fmn"):
        minimal_perturbations(network(3), x, y, method="fan")  # type: ignore[arg-type]
    with pytest.raises(ThreatError, match="no norm 'l7'"):
        minimal_perturbations(network(3), x, y, norm="l7")  # type: ignore[arg-type]


# -- within a threat -------------------------------------------------------------------------------------------------


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Counted:
    """A model that notes how many images each of its calls holds."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls = model, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        logits: Tensor = self.model(x)
        return logits


@pytest.fixture
def mixed(network: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = network(10).double(), torch.rand(12, 2, 4, 4, dtype=torch.float64, generator=seeded())
    return model, x, model(x).argmax(1)


@every_norm
@pytest.mark.parametrize("attack", [fab, fmn])
def test_an_image_breaks_where_its_distance_is_below_eps(
    attack: Callable[..., Any], norm: Norm, mixed: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = mixed
    distance = minimal_perturbations(model, x, y, norm=norm, method=attack.__name__, steps=30)[1]
    threat = threat_model(norm, float(distance.median()))
    result = attack(model, x, y, threat=threat, steps=30)
    assert threat.contains(result.x_adv, x).all()
    near, far = distance < 0.99 * threat.eps, distance > 1.03 * threat.eps
    assert near.sum() > 2 and far.sum() > 2
    assert result.broken[near].all() and not result.broken[far].any()
    # Of an image that holds, the point returned is as far on the way as the ball goes.
    assert (threat.distance(result.x_adv, x)[far] > 0.8 * threat.eps).all()
    assert (result.margin[far] < 0).all()


@pytest.mark.parametrize("attack", [fab, fmn])
def test_success_stops_an_image_at_once(attack: Callable[..., Any], mixed: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = mixed
    result = attack(model, x, y, threat=Linf("0.9"), steps=50)
    assert result.broken.all() and (result.forwards < 12).all()


@every_norm
def test_fab_costs_what_it_says(norm: Norm, mixed: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = mixed
    tiny = threat_model(norm, "1e-6")
    untargeted = fab(model, x, y, threat=tiny, steps=5)
    # The clean image, 5 steps, the search back and the projection.
    assert (untargeted.forwards == 1 + 2 * 5 + 3 + 1).all() and (untargeted.backwards == 5 * 9).all()
    targeted = fab(model, x, y, threat=tiny, steps=5, targets=3)
    assert (targeted.backwards == 3 * 5).all()
    assert (targeted.forwards >= 1 + 3 * 10 + 3 + 1).all() and (targeted.forwards <= 1 + 3 * 13 + 1).all()
    assert (fab(model, x, y, threat=tiny, steps=5, target=(y + 1) % 10).backwards == 5).all()
    assert (fab(model, x, y, threat=tiny, steps=5, restarts=2, targets=99).backwards == 2 * 9 * 5).all()


def test_fab_heads_for_its_targets(make_planes: Callable[..., tuple[nn.Module, Tensor, Tensor]]) -> None:
    model, x, y = make_planes(3, count=20)
    aim = (y + 1) % 3
    points: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        points.append(images.detach())
        logits: Tensor = model(images)
        return logits

    # From the clean image the first step leads 5% beyond the target's plane, or to a corner.
    fab(watched, x, y, threat=L2("1e-6", -99, 99), steps=1, target=aim, alpha_max=0.0)
    step = points[2]
    gap = (model(step).gather(1, aim[:, None]) - model(step).gather(1, y[:, None])).squeeze(1)
    before = (model(x).gather(1, aim[:, None]) - model(x).gather(1, y[:, None])).squeeze(1)
    torch.testing.assert_close(gap, -0.05 * before)


def test_later_restarts_begin_elsewhere_in_half_the_ball(mixed: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = mixed
    threat = Linf("0.001")
    points: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        points.append(images.detach())
        logits: Tensor = model(images)
        return logits

    result = fab(watched, x, y, threat=threat, steps=1, restarts=2, generator=Streams.derive(0, range(12)))
    assert not result.broken.any()
    whole = [point for point in points if len(point) == len(x)]
    judged, first, second = (point for point in whole if Linf("0.0005").contains(point, x).all())
    assert torch.equal(judged, x) and torch.equal(first, x)
    assert (threat.distance(second, x) > 0.0003).all()


def test_fab_refuses_targets_beside_a_target(mixed: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = mixed
    with pytest.raises(AuditError, match="targets is 2 beside a target; expected 0"):
        fab(model, x, y, threat=SMALL["linf"], targets=2, target=(y + 1) % 10)


@every_norm
def test_fmns_points_are_nearest_in_ball_and_box(norm: Norm) -> None:
    generator = seeded()
    x = torch.rand(20, 2, 3, 2, generator=generator, dtype=torch.float64)
    x_adv = x + torch.randn(x.shape, generator=generator, dtype=torch.float64)
    radius = torch.linspace(0.01, 1.0, 20, dtype=torch.float64)
    moved = onto_balls(x_adv, x, radius, SMALL[norm])
    for row, size in enumerate(radius.tolist()):
        one = slice(row, row + 1)
        expected = threat_model(norm, size).project(x_adv[one], x[one])
        torch.testing.assert_close(moved[one], expected, rtol=0, atol=1e-12)
