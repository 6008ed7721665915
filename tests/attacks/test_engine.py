"""The ascent engine and its parts: starts, gradient estimators, restarts, and models that hide their gradients."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import cosine_pgd, pgd, random_noise, spsa
from unmask.attacks.ascent import ascend, climb
from unmask.attacks.gradient import Estimator, exact, smoothed
from unmask.attacks.gradient import spsa as spsa_gradient
from unmask.attacks.pgd import usual_step_size
from unmask.attacks.problem import AttackResult, Problem, input_gradient, pose, restarted
from unmask.attacks.start import Start, Started, at, clean, noised, output_diversified, uniform
from unmask.attacks.stepper import Stepper, fixed
from unmask.errors import DataError
from unmask.losses import cross_entropy, margin, scale_invariant
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf

THREAT = Linf("0.1")


class Counted(nn.Module):
    """A model that counts the images it sees."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.batches = model, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        logits: Tensor = self.inner(x)
        return logits


@pytest.fixture
def problem(network: Callable[..., nn.Module]) -> Problem:
    """Return eight images that a network classifies rightly, at an eps that breaks about half of them."""
    model = network(3).double().eval()
    x = torch.rand(8, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(1)
    return pose(model, x, y, threat=Linf("0.02"), generator=Streams.derive(0, range(8)), loss=margin)


def run(problem: Problem, start: Start, steps: int = 4, **settings: object) -> AttackResult:
    return ascend(problem, start=start, stepper=fixed(problem.threat.eps / 2), steps=steps, **settings)  # type: ignore[arg-type]


# -- the engine ------------------------------------------------------------------------------------------------------


def test_survivors_alone_go_on(problem: Problem) -> None:
    model = Counted(problem.model)
    result = run(Problem(model, problem.x, problem.y, problem.threat, margin, problem.streams), uniform())
    alive = [int(row.isfinite().sum()) for row in result.trace]
    assert model.batches == alive
    assert alive[0] == 8 and alive == sorted(alive, reverse=True) and 0 < alive[-1] < 8
    assert result.forwards.tolist() == result.trace.isfinite().sum(0).tolist()


def test_the_trace_is_the_loss_at_every_iterate(problem: Problem) -> None:
    points = [climb(problem, start=clean(), stepper=fixed(0.01), steps=n) for n in range(5)]
    result = run(problem, clean())
    for line, point in zip(result.trace, points, strict=True):
        values = problem.value(problem.logits(point)).detach()
        seen = line.isfinite()
        torch.testing.assert_close(line[seen], values[seen])


def test_a_break_by_a_tie_is_kept_though_its_margin_is_no_larger() -> None:
    # Of equal logits the first one is predicted: class 1 is right in the first answer, and wrong in the second.
    answers = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    x, y = torch.full((2, 1, 2, 2), 0.45), torch.tensor([1, 1])
    problem = pose(lambda x: answers[(x.flatten(1).mean(1) > 0.5).long()], x, y, threat=Linf("0.3"), generator=None)
    rising = Stepper(
        lambda problem, x_adv: {}, lambda problem, x_adv, gradient, values, state, clock: (x_adv + 0.1, state)
    )
    result = ascend(problem, start=clean(), stepper=rising, steps=2)
    assert result.broken.all() and (result.margin == 0).all()
    torch.testing.assert_close(result.x_adv, x + 0.1)


def test_steps_of_zero_judge_the_start(problem: Problem) -> None:
    result = pgd(problem.model, problem.x, problem.y, threat=THREAT, steps=0, generator=problem.streams)
    start = THREAT.uniform(problem.x, problem.streams.child("restart", 0))
    assert torch.equal(result.x_adv, start)
    assert (result.forwards == 1).all() and (result.backwards == 0).all()


def test_climb_moves_all_images_and_judges_none(problem: Problem) -> None:
    model = Counted(problem.model)
    counted = Problem(model, problem.x, problem.y, problem.threat, margin, problem.streams)
    last = climb(counted, start=clean(), stepper=fixed(0.005), steps=3)
    assert model.batches == [8, 8, 8]
    assert problem.threat.contains(last, problem.x).all()
    assert (last != problem.x).flatten(1).any(1).all()
    assert torch.equal(climb(problem, start=clean(), stepper=fixed(0.005), steps=0), problem.x)


def test_the_usual_step_size_is_that_of_the_literature() -> None:
    assert usual_step_size(Linf("0.3"), 40) == pytest.approx(0.01)


# -- restarts --------------------------------------------------------------------------------------------------------


def test_restarts_attack_survivors_with_fresh_draws_and_keep_the_best(problem: Problem) -> None:
    runs = [
        run(Problem(**{**vars(problem), "streams": problem.streams.child("restart", n)}), uniform(), steps=1)
        for n in range(4)
    ]
    result = restarted(lambda part: run(part, uniform(), steps=1), problem, 4)
    assert len({tuple(one.margin.tolist()) for one in runs}) == 4
    for i in range(8):
        first = next((n for n, one in enumerate(runs) if one.broken[i]), None)
        mine = runs if first is None else runs[: first + 1]
        best = max(mine, key=lambda one: one.margin[i].item()) if first is None else mine[-1]
        torch.testing.assert_close(result.x_adv[i], best.x_adv[i])
        assert result.broken[i] == (first is not None)
        assert result.forwards[i] == sum(one.forwards[i] for one in mine)
        traces = [one.trace[:, i] for one in mine]
        torch.testing.assert_close(result.trace[: 2 * len(mine), i], torch.cat(traces), equal_nan=True)
        assert result.trace[2 * len(mine) :, i].isnan().all()


def test_restarts_end_when_all_is_broken(problem: Problem) -> None:
    model = Counted(problem.model)
    wrong = (problem.y + 1) % 3
    result = pgd(model, problem.x, wrong, threat=THREAT, restarts=50, generator=problem.streams)
    assert result.broken.all()
    assert len(model.batches) < 100


def test_given_points_are_for_a_single_run(problem: Problem) -> None:
    arguments = (problem.model, problem.x, problem.y)
    result = pgd(*arguments, threat=problem.threat, start=at(problem.x), generator=problem.streams)
    assert 0 < result.broken.sum() < 8
    with pytest.raises(DataError, match="one point per image, and no restarts"):
        pgd(*arguments, threat=problem.threat, start=at(problem.x), restarts=2, generator=problem.streams)


# -- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", [THREAT, L2("0.5"), L1("1.5")], ids=str)
@pytest.mark.parametrize(
    "start", [output_diversified(), noised(uniform(), 0.3), noised(clean(), 10.0), at(torch.full((8, 2, 4, 4), 9.0))]
)
def test_every_start_lies_in_ball_and_box(threat: object, start: Start, problem: Problem) -> None:
    inside = Problem(**{**vars(problem), "threat": threat})
    assert inside.threat.contains(start(inside).x_adv, problem.x).all()


def test_output_diversified_starts_climb_one_random_direction(linear: Callable[..., nn.Module]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 6, generator=generator)
    model, x = linear(weights, torch.zeros(3)), torch.full((20, 1, 2, 3), 0.5)
    y = model(x).argmax(1)
    with torch.no_grad():  # a caller's habits must not silence the start
        problem = pose(model, x, y, threat=THREAT, generator=Streams.derive(0, range(20)))
        result = ascend(problem, start=output_diversified(), stepper=fixed(0.0), steps=0)
    assert (result.forwards == 3).all() and (result.backwards == 2).all()
    # Two steps of eps lead to the corner of the direction that was drawn after the uniform start.
    streams = Streams.derive(0, range(20))
    streams.uniform(x.shape[1:])
    directions = 2 * streams.uniform((3,)) - 1
    torch.testing.assert_close(result.x_adv, x + 0.1 * (directions @ weights).sign().view_as(x))
    assert len(result.x_adv.flatten(1).unique(dim=0)) > 3


def test_noise_is_added_to_a_start(problem: Problem) -> None:
    wide = Problem(**{**vars(problem), "threat": Linf("0.9", -1.0, 2.0), "x": torch.full_like(problem.x, 0.5)})
    noise = noised(clean(), 0.05)(wide).x_adv - 0.5
    assert noise.std().item() == pytest.approx(0.05, rel=0.2)
    assert noised(lambda problem: Started(problem.x, 5, 7), 0.1)(wide)[1:] == (5, 7)


# -- gradient estimators ---------------------------------------------------------------------------------------------


def test_gradients_that_are_not_finite_count_as_none() -> None:
    x = torch.tensor([[0.0, 0.25], [1.0, 4.0]], requires_grad=True)
    values = x.sqrt().sum(1)  # the slope at 0 is infinite
    torch.testing.assert_close(input_gradient(values, x), torch.tensor([[0.0, 1.0], [0.5, 0.25]]))


def test_a_loss_that_does_not_see_the_image_has_no_gradient() -> None:
    x, other = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    assert (input_gradient(other.sum(1), x) == 0).all()
    assert (input_gradient(torch.ones(2), x) == 0).all()


def test_smoothing_averages_further_gradients(problem: Problem) -> None:
    kept = torch.arange(8) % 2 == 0
    leaf, _, values = problem.forward(problem.x, graph=True)
    slopes = [torch.autograd.grad(values.sum(), leaf, retain_graph=True)[0][kept]]
    one = smoothed(0.1, samples=3).estimate(problem, leaf, values, kept)
    streams = Streams.derive(0, range(0, 8, 2))
    for _ in range(3):
        point, _, noisy = problem.select(kept).forward(
            leaf.detach()[kept] + 0.1 * streams.normal((2, 4, 4)), graph=True
        )
        slopes.append(input_gradient(noisy, point))
    torch.testing.assert_close(one.gradient, torch.stack(slopes).mean(0))
    assert one[1:] == (3, 3, 1)


def test_smoothing_follows_the_trend_of_a_jagged_surface() -> None:
    # The slope of the ripples is larger than the trend's and turns ten times within the ball.
    def jagged(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        gap = (flat + 0.02 * (flat * 300).sin()).sum(1) - 2.7
        return torch.stack([torch.zeros_like(gap), gap], 1)

    x, y = torch.full((20, 1, 2, 2), 0.5), torch.zeros(20, dtype=torch.int64)
    settings = {"threat": THREAT, "steps": 20, "step_share": 0.5, "momentum": None}
    margins = [
        cosine_pgd(jagged, x, y, smoothing=sigma, generator=Streams.derive(0, range(20)), **settings)
        .margin.mean()
        .item()  # type: ignore[arg-type]
        for sigma in (0.0, 0.02)
    ]
    assert margins[1] > margins[0] + 0.02


def test_spsa_estimates_the_gradient(problem: Problem) -> None:
    leaf, _, values = problem.forward(problem.x, graph=True)
    slope, everyone = input_gradient(values, leaf), torch.ones(8, dtype=torch.bool)
    estimate = spsa_gradient(delta=1e-3, samples=4000).estimate(problem, leaf, values, everyone)
    assert torch.cosine_similarity(estimate.gradient.flatten(1), slope.flatten(1)).min() > 0.98
    assert estimate.gradient.norm() == pytest.approx(slope.norm().item(), rel=0.05)
    assert estimate[1:] == (8000, 0, 0)
    assert not estimate.gradient.requires_grad


def test_one_spsa_sample_is_the_papers_formula(linear: Callable[..., nn.Module]) -> None:
    w = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model, x = linear(torch.stack([torch.zeros(4), w]), torch.zeros(2)), torch.full((2, 1, 2, 2), 0.5)
    y = torch.zeros(2, dtype=torch.int64)
    problem = pose(model, x, y, threat=THREAT, generator=Streams.derive(0, range(2)), loss=margin)
    rows = torch.ones(2, dtype=torch.bool)
    estimate = spsa_gradient(delta=0.01, samples=1).estimate(problem, x, torch.zeros(2), rows)
    v = Streams.derive(0, range(2)).signs((1, 2, 2))
    torch.testing.assert_close(estimate.gradient, (v.flatten(1) @ w).view(2, 1, 1, 1) * v, rtol=1e-3, atol=1e-3)


# -- models that hide their gradients --------------------------------------------------------------------------------


@pytest.fixture
def rounded(linear: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a linear model of rounded images, whose gradient is zero everywhere, and images that it gets right."""
    w = torch.tensor([1.0, -1.0, 2.0, -0.5])
    inner = linear(torch.stack([torch.zeros(4), w]), torch.tensor([0.0, -1.3]))

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = inner((x * 32).round() / 32)
            return logits

    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    return Rounded(), x, torch.zeros(6, dtype=torch.int64)


def test_spsa_climbs_where_pgd_stands_still(rounded: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = rounded
    before = margin(model(x), y)
    settings = {"threat": THREAT, "steps": 15, "generator": Streams.derive(0, range(6))}
    stuck = pgd(model, x, y, start=clean(), **settings)  # type: ignore[arg-type]
    assert torch.equal(stuck.x_adv, x) and torch.equal(stuck.margin, before.detach())
    assert (before < -0.1).all()

    found = spsa(model, x, y, step_size=0.02, delta=0.03, samples=16, **settings)  # type: ignore[arg-type]
    gain = 0.1 * 4.5  # eps times the L1 norm of the weights
    assert (found.margin > before + 0.8 * gain).all()
    assert (found.backwards == 0).all()
    assert (found.forwards == 1 + 15 * 33).all()


def test_spsas_defaults_are_those_of_the_evaluation_it_comes_from() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(spsa).parameters.items()}
    expected = {"steps": 100, "step_size": 0.01, "delta": 0.01, "samples": 128, "loss": margin}
    assert {name: defaults[name] for name in expected} == expected


def test_random_noise_finds_what_gradients_do_not(rounded: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = rounded
    before = margin(model(x), y)
    found = random_noise(model, x, y, threat=THREAT, restarts=60, generator=Streams.derive(0, range(6)))
    assert (found.margin > before + 0.4).all()


def test_logits_of_a_large_scale_stop_cross_entropy_and_not_its_scale_free_form(
    linear: Callable[..., nn.Module],
) -> None:
    w = torch.tensor([1.0, -1.0, 2.0, -0.5])
    model = linear(2000 * torch.stack([torch.zeros(4), w]), torch.tensor([0.0, -2300.0]))
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    stuck, found = (
        pgd(model, x, y, threat=THREAT, loss=loss, start=clean()) for loss in (cross_entropy, scale_invariant)
    )
    assert not stuck.broken.any() and torch.equal(stuck.x_adv, x)
    assert found.broken.all()


@pytest.mark.parametrize("estimator", [exact(), smoothed(0.1), spsa_gradient(samples=2)])
def test_a_model_without_a_graph_is_charged_no_backwards(estimator: Estimator, problem: Problem) -> None:
    silent = Problem(**{**vars(problem), "model": lambda x: problem.logits(x).detach()})
    assert (run(silent, output_diversified(), gradient=estimator).backwards == 0).all()
