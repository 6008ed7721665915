"""APGD: step sizes that follow the climb's own progress, in L1 with sparse steps, and its targeted form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import apgd, targeted_apgd
from unmask.attacks.adaptive import adaptive, checkpoints, sparse
from unmask.attacks.ascent import climb
from unmask.attacks.problem import Problem, pose
from unmask.attacks.start import at, clean
from unmask.attacks.stepper import Clock, fixed
from unmask.losses import cross_entropy, dlr, margin
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, ThreatModel


@pytest.fixture
def problem(network: Callable[..., nn.Module]) -> Problem:
    """Return eight images far from the box, of a network that classifies them rightly."""
    model = network(4).double().eval()
    x = 0.3 + 0.4 * torch.rand(8, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pose(model, x, model(x).argmax(1), threat=Linf("0.1"), generator=Streams.derive(0, range(8)))


def under(problem: Problem, **changes: object) -> Problem:
    return Problem(**{**vars(problem), **changes})  # type: ignore[arg-type]


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_checkpoints_are_the_papers() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert checkpoints(0) == {}


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 1000])
def test_checkpoints_cover_the_steps_without_gaps(steps: int) -> None:
    found = checkpoints(steps)
    assert all(step - span in {0, *found} and span > 0 for step, span in found.items())
    assert max(found) <= steps


# -- Linf and L2 -----------------------------------------------------------------------------------------------------


def one_by_one(problem: Problem, steps: int) -> Tensor:
    """Croce & Hein 2020, Algorithm 1, on one image at a time, in plain Python; returns its last iterates."""
    ends, eps, linf = [], problem.threat.eps, problem.threat.norm == "linf"
    for i in range(len(problem.x)):
        x, y = problem.x[i : i + 1], problem.y[i : i + 1]

        def project(point: Tensor, x: Tensor = x) -> Tensor:
            delta = point - x
            shrunk = delta.clamp(-eps, eps) if linf else delta * min(1.0, eps / max(delta.norm().item(), 1e-30))
            return x + shrunk  # the box takes no part

        def look(point: Tensor, y: Tensor = y) -> tuple[float, Tensor]:
            leaf = point.clone().requires_grad_()
            value = problem.loss(problem.model(leaf), y)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
            return value.item(), slope

        points, values = [x], []
        size, halved, best, best_at_check = 2 * eps, False, (-float("inf"), x, x), -float("inf")
        marks, last = list(checkpoints(steps)), 0
        for k in range(steps):
            value, slope = look(points[k])
            values.append(value)
            if value > best[0]:
                best = (value, points[k], slope)
            if k in marks:
                rises = sum(values[j + 1] > values[j] for j in range(last, k))
                halved = rises < 0.75 * (k - last) or (not halved and best[0] == best_at_check)
                if halved:
                    size /= 2
                    values[k], points[k], slope = best
                last, best_at_check = k, best[0]
            direction = slope.sign() if linf else slope / slope.norm()
            z = project(points[k] + size * direction)
            points.append(
                z if k == 0 else project(points[k] + 0.75 * (z - points[k]) + 0.25 * (points[k] - points[k - 1]))
            )
        ends.append(points[steps])
    return torch.cat(ends)


@pytest.mark.parametrize("threat", [Linf("0.1"), L2("0.6")], ids=str)
@pytest.mark.parametrize("loss", [cross_entropy, dlr, margin])
@pytest.mark.parametrize("steps", [5, 30])
def test_iterates_are_those_of_the_algorithm(
    threat: ThreatModel, loss: Callable[..., Tensor], steps: int, problem: Problem
) -> None:
    problem = under(problem, threat=threat, loss=loss)
    ours = climb(problem, start=clean(), stepper=adaptive(), steps=steps)
    torch.testing.assert_close(ours, one_by_one(problem, steps), rtol=0, atol=1e-6)


def ridge(x: Tensor) -> Tensor:
    """Return logits whose margin is largest, -0.1, where each pixel is at 0.52."""
    gap = -0.1 - (x.flatten(1) - 0.52).abs().sum(1)
    return torch.stack([torch.zeros_like(gap), gap], 1)


def test_steps_are_halved_where_they_only_go_to_and_fro() -> None:
    x, y, threat = torch.full((3, 1, 1, 1), 0.5), torch.zeros(3, dtype=torch.int64), Linf("0.1")
    problem = pose(ridge, x, y, threat=threat, generator=None, loss=margin)
    stepper = adaptive()
    state, x_adv, sizes = stepper.init(problem, x), x, []
    for step in range(100):
        leaf, _, values = problem.forward(x_adv, graph=True)
        (slope,) = torch.autograd.grad(values.sum(), leaf)
        x_adv, state = stepper.update(problem, leaf.detach(), slope, values.detach(), state, Clock(step, 100))
        sizes.append(state["size"][0].item())
    assert sizes[:22] == pytest.approx([0.2] * 22) and sizes[22] == pytest.approx(0.1)
    assert sizes[99] == pytest.approx(0.2 / 2**8)
    assert (x_adv - 0.52).abs().max() < 0.01
    assert (climb(problem, start=clean(), stepper=fixed(0.2), steps=100) - 0.52).abs().min() > 0.05


def test_a_step_that_pays_is_kept(problem: Problem) -> None:
    # On a slope that rises with every step, and for rows that stand still beside it.
    problem = under(problem, threat=Linf("0.3"), loss=margin)
    stepper = adaptive(0.01)
    state, x_adv = stepper.init(problem, problem.x), problem.x
    climbs = torch.arange(8) < 4
    for step in range(30):
        values = torch.where(climbs, float(step), 0.0)
        x_adv, state = stepper.update(problem, x_adv, torch.ones_like(x_adv), values, state, Clock(step, 100))
    torch.testing.assert_close(state["size"], torch.where(climbs, 0.003, 0.0015).double())
    assert torch.equal(state["best_x_adv"][4:], problem.x[4:])


@pytest.mark.parametrize("threat", [Linf("0.02"), L2("0.15"), L1("0.6")], ids=str)
def test_the_best_iterate_is_returned_and_never_less(threat: ThreatModel, problem: Problem) -> None:
    result = apgd(problem.model, problem.x, problem.y, threat=threat, steps=20, loss=margin, generator=problem.streams)
    seen = result.trace.nan_to_num(-torch.inf).amax(0)
    torch.testing.assert_close(result.margin, seen)


def test_a_given_start_is_where_it_starts(problem: Problem) -> None:
    result = apgd(problem.model, problem.x, problem.y, threat=Linf("0.1"), steps=0, start=at(problem.x + 0.05))
    torch.testing.assert_close(result.x_adv, problem.x + 0.05)


# -- L1 --------------------------------------------------------------------------------------------------------------


def test_the_first_sparse_step_moves_a_fifth_of_the_pixels_alike(problem: Problem) -> None:
    problem = under(problem, threat=L1("0.6"))
    moves = climb(problem, start=clean(), stepper=sparse(), steps=1) - problem.x
    leaf, _, values = problem.forward(problem.x, graph=True)
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    for move, direction in zip(moves.flatten(1), slope.flatten(1), strict=True):
        strongest = direction.abs().topk(6).indices
        assert set(move.nonzero().flatten().tolist()) == set(strongest.tolist())
        torch.testing.assert_close(move[strongest], 0.1 * direction[strongest].sign())


def test_sparse_steps_take_other_pixels_where_theirs_cannot_move(linear: Callable[..., nn.Module]) -> None:
    weights = torch.tensor([5.0, 4.0, -3.0, 2.0, 1.0])
    model = linear(torch.stack([torch.zeros(5), weights]), torch.tensor([0.0, -20.0]))
    x, y = torch.tensor([1.0, 0.5, 0.0, 0.5, 0.5]).view(1, 1, 1, 5), torch.tensor([0])
    problem = pose(model, x, y, threat=L1("0.4"), generator=None, loss=margin)
    moved = climb(problem, start=clean(), stepper=sparse(), steps=1)
    torch.testing.assert_close((moved - x).flatten(), torch.tensor([0.0, 0.4, 0.0, 0.0, 0.0]))


def test_sparse_steps_shrink_until_the_best_point_becomes_sparser(problem: Problem) -> None:
    problem = under(problem, threat=L1("0.6"), x=problem.x[:1], y=problem.y[:1])
    stepper, steps, slope = sparse(), 100, torch.arange(32, dtype=torch.float64).view(1, 2, 4, 4) + 1
    state, value = stepper.init(problem, problem.x), torch.zeros(1)
    wide, narrow = problem.x + 0.6 / 32, problem.x.clone()
    narrow[0, 0, 0, :3] += 0.2

    def after(x_adv: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        value.add_(1)
        return stepper.update(problem, x_adv, slope, value.clone(), state, Clock(step, steps))

    _, state = after(wide, 4)  # 32 pixels are no fewer than all
    assert state["size"].item() == pytest.approx(0.4) and state["pixels"].item() == pytest.approx(32 / 1.5)
    for step in range(8, 40, 4):
        _, state = after(wide, step)
    assert state["size"].item() == pytest.approx(0.06)
    moved, state = after(narrow, 40)
    assert state["size"].item() == pytest.approx(0.6) and state["pixels"].item() == pytest.approx(2)
    assert problem.threat.contains(moved, problem.x).all()


# -- APGD-T ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_ways(linear: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model that only the third likeliest wrong class can break, and two images: a hard and a broken one."""
    weights = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [2.0, 2.0], [0.0, 0.0]])
    model = linear(weights, torch.tensor([0.0, -1.0, -1.1, -3.2, -9.0]))
    return model, torch.full((2, 1, 1, 2), 0.5), torch.tensor([0, 1])


def test_targets_come_in_the_order_of_their_clean_logits(three_ways: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = three_ways
    for targets, broken in ((1, False), (2, False), (3, True)):
        result = targeted_apgd(model, x, y, threat=Linf("0.35"), steps=10, targets=targets)
        assert result.broken.tolist() == [broken, True]
        assert result.forwards[1] == 2
        assert result.forwards[0] == (1 + 11 * targets if not broken else result.trace[:, 0].isfinite().sum() + 1)
        assert model(result.x_adv).argmax(1)[0] == (3 if broken else 0)


def test_there_are_no_more_runs_than_wrong_classes(three_ways: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = three_ways
    result = targeted_apgd(model, x[:1], y[:1], threat=Linf("0.05"), steps=10, targets=9)
    assert not result.broken.any() and result.forwards.item() == 1 + 4 * 11 and result.backwards.item() == 4 * 10


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_is_climbed_with_few_classes_too(classes: int, network: Callable[..., nn.Module]) -> None:
    # Where its value is constant no step would seem to pay, and every checkpoint would lead back to the start.
    model = network(classes).eval()
    x = torch.rand(30, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    y, threat, streams = model(x).argmax(1), Linf("0.005"), Streams.derive(0, range(30))
    plain = apgd(model, x, y, threat=threat, steps=30, loss=margin, generator=streams)
    ratio = apgd(model, x, y, threat=threat, steps=30, loss=dlr, generator=streams)
    aimed = targeted_apgd(model, x, y, threat=threat, steps=30, generator=streams)
    assert not plain.broken.all()
    gain = plain.margin - margin(model(x), y)
    for result in (ratio, aimed) if classes == 2 else (aimed,):
        assert (result.broken | (result.margin > plain.margin - 0.01 * gain)).all()


# -- L1, from wider balls --------------------------------------------------------------------------------------------


def test_l1_starts_in_wider_balls_and_pays_for_it(problem: Problem) -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(L1("1").distance(x.detach(), problem.x).max().item())
        logits: Tensor = problem.model(x)
        return logits

    # No stage breaks an image, and so none leaves the batch.
    result = apgd(model, problem.x, problem.y, threat=L1("0.003"), steps=10, generator=problem.streams)
    assert not result.broken.any()
    assert (result.forwards == 13).all() and (result.backwards == 10).all() and len(result.trace) == 5
    radii = [0.009] * 4 + [0.006] * 4 + [0.003] * 5
    assert seen == pytest.approx(radii, rel=0.01)
    assert L1("0.003").contains(result.x_adv, problem.x).all()
