"""The threat model against independent oracles: bisection on the dual, linear programs, variational inequalities."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog
from torch import Tensor

from unmask.errors import ThreatError
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, Norm, ThreatModel, parse_eps, threat_model

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
every_norm = pytest.mark.parametrize("norm", NORMS)

# Whole and halved pixels make ties and corners, where sorting-based projections go wrong.
pixels = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
points = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), st.floats(-3, 4))
sizes = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(1e-3, 1.0), st.floats(1.0, 6.0))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw an image, a point to project and eps."""
    count = draw(st.integers(1, 7))
    x = draw(hnp.arrays(np.float64, count, elements=pixels))
    return x, draw(hnp.arrays(np.float64, count, elements=points)), draw(sizes)


def ball(norm: str, eps: float, low: float = 0.0, high: float = 1.0) -> ThreatModel:
    return threat_model(norm, min(eps, high - low) if norm == "linf" else eps, low, high)


def project(threat: ThreatModel, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return threat.project(torch.from_numpy(v)[None], torch.from_numpy(x)[None])[0].numpy()


def projected_by_bisection(threat: ThreatModel, v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Minimise |z - v|^2 / 2 + multiplier * norm over the box, and find the multiplier that meets the norm."""
    low, high = threat.low - x, threat.high - x
    d = v - x

    def minimiser(multiplier: float) -> np.ndarray:
        free = d / (1 + multiplier) if threat.norm == "l2" else np.sign(d) * np.maximum(abs(d) - multiplier, 0)
        return np.clip(free, low, high)

    if threat.norm == "linf":
        return x + np.clip(np.clip(d, -threat.eps, threat.eps), low, high)
    too_small, enough = 0.0, 1e9
    if np.linalg.norm(minimiser(0.0), ORDER[threat.norm]) <= threat.eps:
        return x + minimiser(0.0)
    for _ in range(200):
        middle = math.sqrt(max(too_small, 1e-12) * enough)
        inside = np.linalg.norm(minimiser(middle), ORDER[threat.norm]) <= threat.eps
        too_small, enough = (too_small, middle) if inside else (middle, enough)
    return x + minimiser(enough)


@every_norm
@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_projection_is_that_of_an_independent_bisection(norm: str, case: tuple[np.ndarray, np.ndarray, float]) -> None:
    x, v, eps = case
    threat = ball(norm, eps)
    np.testing.assert_allclose(project(threat, v, x), projected_by_bisection(threat, v, x), atol=1e-7)


@every_norm
@settings(deadline=None, max_examples=100)
@given(case=cases(), seed=st.integers(0, 2**31))
def test_no_feasible_point_is_nearer(norm: str, case: tuple[np.ndarray, np.ndarray, float], seed: int) -> None:
    x, v, eps = case
    threat = ball(norm, eps)
    p = project(threat, v, x)
    directions = np.random.default_rng(seed).normal(size=(50, len(x)))
    lengths = np.linalg.norm(directions, ORDER[norm], axis=1, keepdims=True)
    feasible = np.clip(x + threat.eps * directions / lengths, 0, 1)
    # The nearest point of a convex set is the one from which v lies at an obtuse angle to every other point.
    assert ((feasible - p) @ (v - p) <= 1e-7).all()
    assert (np.linalg.norm(feasible - v, axis=1) >= np.linalg.norm(p - v) - 1e-7).all()


@every_norm
@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_a_projection_lies_in_ball_and_box_and_projects_to_itself(
    norm: str, case: tuple[np.ndarray, np.ndarray, float]
) -> None:
    x, v, eps = case
    threat = ball(norm, eps)
    p = project(threat, v, x)
    assert p.min() >= 0 and p.max() <= 1
    assert np.linalg.norm(p - x, ORDER[norm]) <= threat.eps + 1e-12
    np.testing.assert_allclose(project(threat, p, x), p, atol=1e-12)


@every_norm
@settings(deadline=None, max_examples=100)
@given(case=cases(), share=st.floats(0, 1))
def test_points_inside_stay_exactly_as_they_are(
    norm: str, case: tuple[np.ndarray, np.ndarray, float], share: float
) -> None:
    x, v, eps = case
    threat = ball(norm, eps)
    inside = x + share * (project(threat, v, x) - x)
    assume(np.linalg.norm(inside - x, ORDER[norm]) <= threat.eps and inside.min() >= 0 and inside.max() <= 1)
    assume(norm != "linf" or (abs(inside - x) <= threat.eps * (1 - 1e-12)).all())
    assert np.array_equal(project(threat, inside, x), inside)


@every_norm
def test_points_inside_stay_exactly_as_they_are_in_float32_too(norm: str) -> None:
    threat, generator = ball(norm, 4.0), torch.Generator().manual_seed(0)
    x, inside = (torch.rand(50, 4, generator=generator).square() for _ in range(2))
    assert not torch.equal(x + (inside - x), inside)  # going there and back would round
    assert torch.equal(threat.project(inside, x), inside)


@pytest.mark.parametrize("pixel_count", [64, 784, 12_000])
@pytest.mark.parametrize("eps", [0.01, 0.3, 1.0, 12.0])
@pytest.mark.parametrize("spread", [1e-7, 1e-4, 0.05, 1.0, 1e6])
@every_norm
def test_float32_projections_starts_and_steps_count_as_inside(
    norm: str, eps: float, spread: float, pixel_count: int
) -> None:
    # Where very many pixels move by less than float32 can tell apart, their rounding adds up.
    threat = ball(norm, eps)
    generator = torch.Generator().manual_seed(pixel_count)
    x = torch.rand(1, 1, pixel_count, 1, generator=generator)
    far = x + spread * torch.randn(x.shape, generator=generator)
    for point in (far, threat.uniform(x, Streams.derive(0, [0])), threat.corner(x, Streams.derive(0, [0]))):
        projected = threat.project(point, x)
        assert projected.dtype == torch.float32
        assert threat.contains(projected, x).all()
        assert threat.contains(threat.project(2 * projected - x, x), x).all()


@every_norm
def test_images_of_a_batch_are_projected_each_by_itself(norm: str) -> None:
    threat, generator = ball(norm, 0.4), torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 2, 5, generator=generator)
    v = x + torch.tensor([0.0, 0.01, 1.0, 100.0]).view(-1, 1, 1, 1) * torch.randn(x.shape, generator=generator)
    apart = torch.cat([threat.project(a, b) for a, b in zip(v.split(1), x.split(1), strict=True)])
    assert torch.equal(threat.project(v, x), apart)


@every_norm
def test_the_layout_in_memory_does_not_matter(norm: str) -> None:
    threat, generator = ball(norm, 0.4), torch.Generator().manual_seed(0)
    x, v = (torch.rand(4, 3, 2, 5, generator=generator) for _ in range(2))
    last = [tensor.to(memory_format=torch.channels_last) for tensor in (x, v)]
    assert torch.equal(threat.project(last[1], last[0]), threat.project(v, x))
    assert torch.equal(threat.steepest_step(v, last[0], 0.3), threat.steepest_step(v, x, 0.3))
    assert torch.equal(threat.distance(last[1], last[0]), threat.distance(v, x))
    assert torch.equal(threat.project(v.flatten(1), x.flatten(1)), threat.project(v, x).flatten(1))


@every_norm
def test_the_arguments_are_left_untouched(norm: str) -> None:
    threat, generator = ball(norm, 0.4), torch.Generator().manual_seed(0)
    x, v = (torch.rand(4, 3, 2, 5, generator=generator) for _ in range(2))
    x_before, v_before = x.clone(), v.clone()
    for result in (
        threat.project(v, x),
        threat.steepest_step(v, x, 0.1),
        threat.uniform(x, Streams.derive(0, range(4))),
        threat.corner(x, Streams.derive(0, range(4))),
    ):
        result.add_(1.0)
        assert torch.equal(x, x_before) and torch.equal(v, v_before)


@every_norm
def test_float64_stays_float64(norm: str) -> None:
    threat, x = ball(norm, 0.4), torch.full((2, 1, 3, 3), 0.5, dtype=torch.float64)
    streams = Streams.derive(0, range(2))
    for result in (
        threat.project(x + 0.3, x),
        threat.uniform(x, streams),
        threat.corner(x, streams),
        threat.steepest_step(x, x, 0.1),
        threat.steepest_step(x, x, torch.tensor([0.1, 0.2], dtype=torch.float64)),
        threat.distance(x, x),
    ):
        assert result.dtype == torch.float64
    assert threat.distance(x.float(), x.float()).dtype == torch.float64


@every_norm
def test_no_images_are_no_trouble(norm: str) -> None:
    threat, x, streams = ball(norm, 0.4), torch.zeros(0, 1, 3, 3), Streams.derive(0, [])
    for result in (
        threat.project(x, x),
        threat.uniform(x, streams),
        threat.corner(x, streams),
        threat.steepest_step(x, x, 0.1),
    ):
        assert result.shape == x.shape
    assert threat.contains(x, x).shape == threat.distance(x, x).shape == (0,)


# -- starts ----------------------------------------------------------------------------------------------------------


def many(value: float | None, count: int = 400, pixel_count: int = 12) -> tuple[Tensor, Streams]:
    """Return `count` images (random, or all pixels of one value) and their streams."""
    shape = (count, 1, pixel_count, 1)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) if value is None else torch.full(shape, value)
    return x.double(), Streams.derive(1, range(count))


@every_norm
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.9, 3.0])
@pytest.mark.parametrize("start", [ThreatModel.uniform, ThreatModel.corner])
def test_starts_lie_in_ball_and_box(norm: str, eps: float, start: Callable[..., Tensor]) -> None:
    threat = ball(norm, eps)
    x, streams = many(None)
    points = start(threat, x, streams)
    assert threat.contains(points, x).all()
    assert eps == 0 or len(points.flatten(1).unique(dim=0)) > 0.9 * len(x)


@every_norm
def test_uniform_starts_fill_the_ball_evenly(norm: str) -> None:
    threat, size = ball(norm, 0.4), 12
    x, streams = many(0.5, count=2000, pixel_count=size)
    delta = (threat.uniform(x, streams) - x).flatten(1) / threat.eps
    # The share of a ball within r is r^D, whatever its norm: the D-th power of the radius is uniform.
    radius = torch.linalg.vector_norm(delta, ORDER[norm], dim=1)
    shares = (radius**size).sort().values
    assert (shares - torch.linspace(0, 1, 2000)).abs().max() < 0.0364  # Kolmogorov-Smirnov at 1%
    # Directions have no preference: every pixel has mean 0, and the known variance of the ball.
    variance = {"linf": 1 / 3, "l2": 1 / (size + 2), "l1": 2 / ((size + 1) * (size + 2))}[norm]
    assert delta.mean(0).abs().max() < 4 * math.sqrt(variance / 2000)
    torch.testing.assert_close(delta.square().mean(0), torch.full((size,), variance).double(), rtol=0.25, atol=0)


def test_corners_are_vertices_of_ball_and_box() -> None:
    x, streams = many(None)
    delta = Linf(0.3).corner(x, streams) - x
    at_edge = ((delta.abs() - 0.3).abs() < 1e-9) | (x + delta == 0) | (x + delta == 1)
    assert at_edge.all()
    assert 0.4 < (delta > 0).double().mean() < 0.6

    delta = L1(1.7).corner(x, streams) - x
    torch.testing.assert_close(delta.flatten(1).abs().sum(1), torch.full((400,), 1.7).double())
    partial = (delta != 0) & (x + delta > 1e-9) & (x + delta < 1 - 1e-9)
    assert (partial.flatten(1).sum(1) <= 1).all()  # all moved pixels but the last go as far as the box lets them
    assert (delta.flatten(1) != 0).any(0).all()  # and all pixels have their turn


def test_corners_of_l2_lie_on_the_sphere_where_the_box_allows_it() -> None:
    x, streams = many(0.5)
    torch.testing.assert_close(L2(0.4).distance(L2(0.4).corner(x, streams), x), torch.full((400,), 0.4).double())
    x, streams = many(None)
    distance = L2(0.4).distance(L2(0.4).corner(x, streams), x)
    assert distance.max() <= 0.4 + 1e-9 and distance.mean() > 0.3


def test_an_l1_ball_larger_than_the_box_reaches_the_box_corner() -> None:
    x, streams = many(None, count=5)
    corner = L1(100).corner(x, streams)
    assert ((corner == 0) | (corner == 1)).all()


# -- steps -----------------------------------------------------------------------------------------------------------


@every_norm
@settings(deadline=None, max_examples=100)
@given(
    gradient=hnp.arrays(np.float64, 6, elements=st.floats(-1e3, 1e3)),
    size=st.floats(1e-3, 0.2),
)
def test_steepest_steps_reach_the_dual_norm_of_a_linear_function(norm: str, gradient: np.ndarray, size: float) -> None:
    assume(np.abs(gradient).max() > 1e-9)
    x = torch.full((1, 6), 0.5, dtype=torch.float64)
    step = ball(norm, 0.3).steepest_step(torch.from_numpy(gradient)[None], x, size)[0].numpy()
    dual = np.linalg.norm(gradient, {"linf": 1, "l2": 2, "l1": np.inf}[norm])
    assert gradient @ step == pytest.approx(size * dual, rel=1e-9)
    assert np.linalg.norm(step, ORDER[norm]) <= size * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_l1_steps_solve_the_linear_program_with_the_box(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, gradient, size = random.uniform(size=8), random.normal(size=8), random.uniform(0.1, 4)
    x[:3], gradient[3] = (0.0, 1.0, 1.0), 0.0
    step = L1(5).steepest_step(torch.from_numpy(gradient)[None], torch.from_numpy(x)[None], size)[0].numpy()
    # Upward and downward parts, each up to its pixel bound, together at most `size`.
    bounds = [(0, room) for room in (*(1 - x), *x)]
    best = linprog(-np.concatenate([gradient, -gradient]), A_ub=np.ones((1, 16)), b_ub=[size], bounds=bounds)
    assert gradient @ step == pytest.approx(-best.fun, rel=1e-9)
    assert abs(step).sum() <= size + 1e-12
    assert (x + step).min() >= 0 and (x + step).max() <= 1


@every_norm
def test_a_zero_gradient_gives_a_zero_step(norm: str) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    gradient = torch.zeros_like(x)
    gradient[1, 0, 0, 0] = 1.0
    step = ball(norm, 0.3).steepest_step(gradient, x, 0.1)
    assert (step[0] == 0).all()
    assert step[1, 0, 0, 0] == pytest.approx(0.1)


@every_norm
@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e-12, 1.0, 1e12, 1e30])
def test_a_step_has_its_size_however_small_or_large_the_gradient(norm: str, scale: float) -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    gradient = torch.linspace(-1, 1, 16).view_as(x)
    step = ball(norm, 0.5).steepest_step(scale * gradient, x, 0.1)
    torch.testing.assert_close(step, ball(norm, 0.5).steepest_step(gradient, x, 0.1))
    assert ball(norm, 0.5).distance(x + step, x).item() == pytest.approx(0.1, rel=1e-5)


@every_norm
def test_every_image_may_have_its_own_step_size(norm: str) -> None:
    threat, generator = ball(norm, 0.5), torch.Generator().manual_seed(0)
    x, gradient = torch.full((3, 1, 2, 2), 0.5), torch.randn(3, 1, 2, 2, generator=generator)
    together = threat.steepest_step(gradient, x, torch.tensor([0.1, 0.2, 0.05]))
    apart = [threat.steepest_step(gradient[i : i + 1], x[:1], size) for i, size in enumerate((0.1, 0.2, 0.05))]
    torch.testing.assert_close(together, torch.cat(apart))


# -- distance and containment ----------------------------------------------------------------------------------------


@every_norm
@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_distances_are_numpys(norm: str, case: tuple[np.ndarray, np.ndarray, float]) -> None:
    x, v, _ = case
    distance = ball(norm, 0.3).distance(torch.from_numpy(v)[None], torch.from_numpy(x)[None])
    assert distance.item() == pytest.approx(np.linalg.norm(v - x, ORDER[norm]))


def test_neighbouring_ways_to_write_eps_are_told_apart() -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    at_eight = x + 8 / 255
    assert Linf("8/255").contains(at_eight, x).item()
    assert not Linf(0.031).contains(at_eight, x).item()
    assert not Linf("8/255").contains(x + 8.01 / 255, x).item()
    assert Linf(0.032).contains(at_eight, x).item()


@pytest.mark.parametrize("pixel", [0.0, 0.1, 1 / 3, 0.5, 0.7 - 1e-8])
@pytest.mark.parametrize("eps", ["8/255", "0.3", "76.5/255", "1/3"])
def test_float32_rounding_at_eps_is_inside(pixel: float, eps: str) -> None:
    x = torch.full((1, 1, 4, 4), pixel)
    for moved in (x + float(parse_eps(eps)), (x.double() + float(parse_eps(eps))).float()):
        assert Linf(eps).contains(moved.clamp(0, 1), x).item()


@every_norm
def test_containment_has_the_stated_tolerance(norm: str) -> None:
    threat = ball(norm, 0.25)
    x = torch.full((1, 9), 0.5, dtype=torch.float64)
    move = torch.zeros_like(x)
    move[0, 0] = 1.0
    assert threat.tolerance == pytest.approx(1e-6 if norm == "linf" else 1e-6 + 1e-5 * 0.25)
    assert threat.contains(x + (0.25 + 0.99 * threat.tolerance) * move, x).item()
    assert not threat.contains(x + (0.25 + 1.01 * threat.tolerance) * move, x).item()


def test_the_box_has_no_tolerance_and_what_is_not_finite_is_outside() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    other = torch.tensor([[-1e-7, 1.0], [0.0, 1.0000001], [math.nan, 0.5], [0.5, math.inf], [0.1, 0.9]])
    assert Linf(0.3).contains(other, x).tolist() == [False, False, False, False, True]


@every_norm
def test_a_box_of_8_bit_pixels_works_too(norm: str) -> None:
    # Such pixels are rounded 255 times as coarsely as those of [0, 1].
    threat, generator = ball(norm, 8.3, 0.0, 255.0), torch.Generator().manual_seed(0)
    x = 255 * torch.rand(5, 3, 8, 8, generator=generator)
    projected = threat.project(x + 30 * torch.randn(x.shape, generator=generator), x)
    assert threat.contains(projected, x).all()
    assert projected.max() > 1 and threat.distance(projected, x).min() > 8.29


# -- eps and its words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eps", "exact"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("76.5/255", Fraction(3, 10)),
        ("0.3", Fraction(3, 10)),
        (0.3, Fraction(3, 10)),
        (np.float32(0.3), Fraction(3, 10)),
        ("1e-3", Fraction(1, 1000)),
        (12, Fraction(12)),
        (Fraction(8, 255), Fraction(8, 255)),
        ("0", Fraction(0)),
        ("+.5", Fraction(1, 2)),
    ],
)
def test_eps_is_read_exactly(eps: float | str | Fraction, exact: Fraction) -> None:
    assert parse_eps(eps) == exact


NO_NUMBERS = ["", "eight", "8/0", "8/", "/255", "8/255/3", "8//255", "0x8", "8 255", None, True]
NOT_FINITE = ["nan", "-inf", math.nan, math.inf, "1e999999999", "1/1e999999999", "1e-999999999"]


@pytest.mark.parametrize("eps", [*NO_NUMBERS, *NOT_FINITE])
def test_what_is_no_number_is_refused(eps: str) -> None:
    with pytest.raises(ThreatError, match=r"write a number such as 0\.3, or a fraction such as '8/255'"):
        parse_eps(eps)


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (Linf("8/255"), "Linf(8/255)"),
        (Linf("16/510"), "Linf(8/255)"),
        (Linf("76.5/255"), "Linf(0.3)"),
        (Linf(0.031), "Linf(0.031)"),
        (L2(0.5), "L2(0.5)"),
        (L1(12), "L1(12)"),
        (L2("1/3"), "L2(85/255)"),
        (L2("1/7"), "L2(1/7)"),
    ],
)
def test_a_threat_model_says_its_eps_as_people_write_it(threat: ThreatModel, text: str) -> None:
    assert str(threat) == text


@settings(deadline=None)
@given(st.sampled_from(NORMS), st.fractions(0, 2, max_denominator=10**9))
def test_descriptions_bring_back_the_same_threat_model(norm: str, eps: Fraction) -> None:
    threat = threat_model(norm, eps, -1.0, 1.0)
    assert ThreatModel.from_description(threat.describe()) == threat
    assert threat.with_eps(eps / 2).exact_eps == eps / 2
    assert str(threat) == f"{ {'linf': 'Linf', 'l2': 'L2', 'l1': 'L1'}[norm] }({threat.describe()['eps']})"


def test_a_description_without_bounds_means_the_unit_box() -> None:
    assert ThreatModel.from_description({"norm": "L2", "eps": "1/2"}) == L2(0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linf(8), r"eps 8 is larger than the pixel range \[0, 1\].*for 8-bit pixel units write '8/255'"),
        (lambda: Linf("7.65"), r"write '7\.65/255'"),
        (lambda: L2(-1), "eps is -1: a perturbation cannot have a negative size"),
        (lambda: Linf("-8/255"), "negative size"),
        (lambda: threat_model("l3", 1), r"no norm 'l3'\. Did you mean '.*'\? Known: l1, l2, linf"),
        (lambda: ThreatModel("l0", Fraction(1)), "no norm 'l0'"),  # type: ignore[arg-type]
        (lambda: Linf(0.1, 1.0, 0.0), r"Pixel bounds \[1\.0, 0\.0\]: expected finite numbers, low below high"),
        (lambda: L2(0.1, 0.5, 0.5), "Pixel bounds"),
        (lambda: L2(0.1, -math.inf, 1.0), "Pixel bounds"),
        (lambda: L2(0.1, 0.0, math.nan), "Pixel bounds"),
        (lambda: Linf(0.1).with_eps(3), "larger than the pixel range"),
    ],
)
def test_threat_models_that_make_no_sense_are_refused(build: Callable[[], ThreatModel], message: str) -> None:
    with pytest.raises(ThreatError, match=message):
        build()


# -- 8-bit images ----------------------------------------------------------------------------------------------------

LEVELS = torch.arange(256)
numbers = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def survives_bytes(image: Tensor) -> bool:
    return torch.equal((image * 255).round().byte().to(image.dtype) / 255, image)


@st.composite
def small_cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Draw an image of three pixels, on the grid or off it, a point near it, and eps in levels of 1 / 255."""
    on_grid = draw(st.booleans())
    level = st.integers(0, 255) if on_grid else st.floats(0, 255)
    x = torch.tensor([[draw(level) for _ in range(3)]], dtype=torch.float64) / 255
    moved = torch.tensor([[draw(st.floats(-6, 6)) for _ in range(3)]], dtype=torch.float64) / 255
    return x, x + moved, draw(st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, 3.3]))


def grid_around(x: Tensor) -> Tensor:
    """Return all 8-bit images within 5 levels of an image (1, 3)."""
    near = [(LEVELS.double() / 255)[(LEVELS - 255 * pixel).abs() <= 5] for pixel in x[0]]
    return torch.cartesian_prod(*near)


@every_norm
@settings(deadline=None, max_examples=200)
@given(case=small_cases())
def test_an_8_bit_image_is_found_wherever_one_lies_in_the_ball(norm: str, case: tuple[Tensor, Tensor, float]) -> None:
    x, v, levels = case
    threat, grid = ball(norm, levels / 255), grid_around(x)
    v = threat.project(v, x)
    image = threat.to_8bit(v, x)
    assert survives_bytes(image)
    around = x.expand_as(grid)
    inside = threat.distance(grid, around) <= threat.eps
    if inside.any():
        assert threat.contains(image, x).all()
        best = torch.linalg.vector_norm(grid[inside] - v, dim=1).min()
        slack = 1e-9 if norm == "linf" else 1 / 255  # of L2 and L1, where one pixel may be left for another
        assert torch.linalg.vector_norm(image - v) <= best + slack
    if not threat.contains(grid, around).any():
        assert not threat.contains(image, x).any()
        assert torch.equal(image, (255 * x).round() / 255)


@numbers
@pytest.mark.parametrize("eps", range(0, 256, 5))
def test_whole_levels_of_eps_are_used_whole(eps: int, dtype: torch.dtype) -> None:
    # 8/255 more than n/255 is not (n + 8)/255 in float32: rounding must cost no level, and give none.
    x = (LEVELS.to(dtype) / 255)[None]
    threat = Linf(f"{eps}/255")
    for sign in (1, -1):
        image = threat.to_8bit(threat.project(x + sign, x), x)
        assert torch.equal((255 * image).round().long()[0], (LEVELS + sign * eps).clamp(0, 255))
        assert threat.contains(image, x).all()
        assert survives_bytes(image)


def test_a_ball_of_half_a_level_more_ends_at_the_level_below() -> None:
    x = (LEVELS / 255.0)[None]
    image = Linf("8.5/255").to_8bit(x + 0.5, x)
    assert torch.equal((255 * image).round().long()[0], (LEVELS + 8).clamp(max=255))


@every_norm
@numbers
def test_8_bit_images_of_real_size_are_inside_and_hardly_moved(norm: str, dtype: torch.dtype) -> None:
    threat = {"linf": Linf("8/255"), "l2": L2(0.5), "l1": L1(12)}[norm]
    generator = torch.Generator().manual_seed(0)
    for on_grid in (True, False):
        x = torch.rand(6, 3, 16, 16, generator=generator, dtype=dtype)
        x = (255 * x).round() / 255 if on_grid else x
        v = threat.project(x + 0.05 * torch.randn(x.shape, generator=generator, dtype=dtype), x)
        image = threat.to_8bit(v, x)
        assert image.dtype == dtype and image.shape == x.shape
        assert survives_bytes(image) and threat.contains(image, x).all()
        # Rounding moves a pixel by half a level at most, giving way at the edge of the ball by one.
        plain = torch.linalg.vector_norm(((255 * v).round() / 255 - v).flatten(1), dim=1)
        assert (torch.linalg.vector_norm((image - v).flatten(1), dim=1) <= 2 * plain).all()
        apart = torch.cat([threat.to_8bit(a, b) for a, b in zip(v.split(1), x.split(1), strict=True)])
        assert torch.equal(apart, image)
        assert threat.to_8bit(v[:0], x[:0]).shape == x[:0].shape


@pytest.mark.parametrize(("threat", "raised"), [(L2("3/255"), 9), (L1("6/255"), 6), (L2(0), 0), (L1("0.9/255"), 0)])
def test_pixels_that_are_all_alike_are_rounded_up_while_there_is_room(threat: ThreatModel, raised: int) -> None:
    # Shrinking alone would lose them all at once.
    x = torch.full((1, 16), 100 / 255)
    image = threat.to_8bit(x + 0.7 / 255, x)
    assert (255 * image).round().sub(100).sum() == raised
    assert threat.contains(image, x).all() and survives_bytes(image)


def test_points_outside_ball_and_box_are_brought_in() -> None:
    x = torch.tensor([[0.0, 1.0, 0.5, 128 / 255]])
    far = torch.tensor([[-7.0, 9.0, 5.0, -3.0]])
    for threat in (Linf("8/255"), L2("8.5/255"), L1("9/255")):
        image = threat.to_8bit(far, x)
        assert survives_bytes(image) and threat.contains(image, x).all()
        assert threat.distance(image, x) > threat.eps - 1 / 255


def test_8_bit_images_need_the_unit_box() -> None:
    x = torch.zeros(1, 3)
    with pytest.raises(ThreatError, match=r"pixels in \[0, 1\]; this threat model's lie in \[-1\.0, 1\.0\]"):
        Linf("8/255", -1.0, 1.0).to_8bit(x, x)


@pytest.mark.parametrize("make", [Linf, L2, L1])
def test_without_a_bound_the_ball_holds_the_box_and_no_more(make):
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    free = make(0.1).unbounded(black)
    assert free.contains(white, black).all()
    assert free.eps == pytest.approx(free.distance(white, black).item(), rel=1e-6)
