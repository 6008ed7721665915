"""Attacks whose loss changes on the way (MD, PMA, GAMA), the probabilities they climb, and logits of every scale."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import ATTACKS, gama, md, mifpe, pgd, pma
from unmask.attacks.ascent import ascend
from unmask.attacks.probabilities import probabilities
from unmask.attacks.problem import Problem, pose, with_clean_logits
from unmask.attacks.start import at, clean
from unmask.attacks.stepper import Clock, Stepper, cosine, dropping, fixed
from unmask.losses import margin, scale_invariant
from unmask.streams import Streams
from unmask.threat import Linf

THREAT = Linf("0.01")


@pytest.fixture
def problem(network: Callable[..., nn.Module]) -> Problem:
    """Return eight images that a network classifies rightly, at an eps that breaks none of them."""
    model = network(4).double().eval()
    x = torch.rand(40, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[margin(model(x), model(x).argmax(1)).argsort()[:8]]
    return pose(model, x, model(x).argmax(1), threat=THREAT, generator=Streams.derive(0, range(8)))


def own(scores: Tensor, y: Tensor) -> Tensor:
    return scores.gather(1, y.view(-1, 1)).flatten()


# -- MD and PMA ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attack", "scores"), [(md, lambda z: z), (pma, lambda z: z.softmax(1))], ids=["md", "pma"])
def test_each_half_climbs_its_own_loss(
    attack: Callable[..., object], scores: Callable[[Tensor], Tensor], problem: Problem
) -> None:
    x, y = problem.x, problem.y
    result = attack(problem.model, x, y, threat=THREAT, steps=4, restarts=3, start=clean())
    assert not result.broken.any() and (result.forwards == 15).all()  # type: ignore[attr-defined]
    trace = result.trace.view(3, 5, 8).detach()  # type: ignore[attr-defined]
    first = scores(problem.model(x).detach())
    torch.testing.assert_close(trace[0, 0], -own(first, y))
    torch.testing.assert_close(trace[1, 0], margin(first, y) + own(first, y))
    torch.testing.assert_close(trace[2], trace[0])
    # The third iterate is the first of the second half.
    for run in (0, 1):
        term = (lambda z: -own(z, y)) if run == 0 else (lambda z: margin(z, y) + own(z, y))
        point = x
        for k, half in enumerate((term, term, lambda z: margin(z, y), lambda z: margin(z, y))):
            leaf = point.clone().requires_grad_()
            value = half(scores(problem.model(leaf)))
            torch.testing.assert_close(trace[run, k], value.detach())
            (slope,) = torch.autograd.grad(value.sum(), leaf)
            point = THREAT.project(point + (0.02, 0.01, 0.02, 0.01)[k] * slope.sign(), x)
        torch.testing.assert_close(trace[run, 4], margin(scores(problem.model(point).detach()), y))


def test_one_term_finds_what_the_margin_hides() -> None:
    # The own class's logit falls steeply to the left for a little, which the margin follows; the other class's logit
    # alone shows that it wins on the right.
    def model(x: Tensor) -> Tensor:
        x = x.flatten(1)[:, 0] - 0.5
        return torch.stack([1 + 3 * x.clamp(max=0.05), 2 * x + 0.5 * (x > 0.08) * (x - 0.08) * 40], 1)

    x, y, threat = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), Linf("0.2")
    settings = {"threat": threat, "steps": 20, "start": clean()}
    assert not pgd(model, x, y, loss=margin, **settings).broken.any()  # type: ignore[arg-type]
    assert md(model, x, y, restarts=2, **settings).broken.all()  # type: ignore[arg-type]


def sizes(stepper: Stepper, steps: int, problem: Problem) -> list[float]:
    """Return the size of every step in units of eps, each taken from the lowest corner upwards."""
    x, up = torch.full_like(problem.x, 0.5), torch.ones_like(problem.x)
    inside = Problem(**{**vars(problem), "x": x})
    corner, values = x - THREAT.eps, torch.zeros(8)
    state = stepper.init(inside, corner)
    ends = [stepper.update(inside, corner, up, values, state, Clock(step, steps))[0] for step in range(steps)]
    return [((end - corner).max() / THREAT.eps).item() for end in ends]


def test_every_stage_has_a_cosine_of_its_own(problem: Problem) -> None:
    whole = sizes(cosine(2.0), 4, problem)
    assert whole == pytest.approx([2.0, 1.7071, 1.0, 0.2929], abs=1e-4)
    assert sizes(cosine(2.0, stages=2), 8, problem) == pytest.approx(whole + whole)
    assert sizes(cosine(2.0, stages=2), 5, problem)[::3] == pytest.approx([2.0, 1.8090], abs=1e-4)


# -- GAMA ------------------------------------------------------------------------------------------------------------


def test_gamas_steps_drop_twice(problem: Problem) -> None:
    found = sizes(dropping(2.0, 0.1, at=(0.6, 0.85)), 20, problem)
    assert found == pytest.approx([2.0] * 12 + [0.2] * 5 + [0.02] * 3)


def test_gama_is_guided_for_a_quarter_of_its_steps(problem: Problem) -> None:
    x, y, begin = problem.x, problem.y, at(problem.x + 0.005)
    clean_p = problem.model(x).softmax(1).detach()
    result = gama(problem.model, x, y, threat=THREAT, steps=8, start=begin)
    assert not result.broken.any() and (result.forwards == 10).all() and (result.backwards == 8).all()
    point = THREAT.project(x + 0.005, x)
    for k, weight in enumerate((50.0, 25.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)):
        leaf = point.clone().requires_grad_()
        p = problem.model(leaf).softmax(1)
        value = margin(p, y) + weight * (p - clean_p).square().sum(1)
        torch.testing.assert_close(result.trace[k], value.detach())
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        size = 0.02 if k < 5 else 0.002 if k < 7 else 0.0002
        point = THREAT.project(point + size * slope.sign(), x)


def test_gama_starts_at_random_corners(problem: Problem) -> None:
    result = gama(problem.model, problem.x, problem.y, threat=THREAT, steps=0, generator=problem.streams)
    assert torch.equal(result.x_adv, THREAT.corner(problem.x, problem.streams.child("restart", 0)))


def test_clean_logits_follow_the_survivors(problem: Problem) -> None:
    looked = with_clean_logits(problem)
    kept = torch.arange(8) % 3 == 0
    logits = looked.select(kept).clean_logits
    assert logits is not None and not logits.requires_grad
    torch.testing.assert_close(logits, problem.model(problem.x[kept]).detach())
    assert problem.select(kept).clean_logits is None


def test_a_schedule_sees_every_iterate_once(problem: Problem) -> None:
    seen = []

    def schedule(problem: Problem, clock: Clock) -> Callable[..., Tensor]:
        seen.append((clock, len(problem.x)))
        return margin

    ascend(problem, start=clean(), stepper=fixed(0.0), steps=3, schedule=schedule)
    assert seen == [(Clock(step, 3), 8) for step in range(4)]


# -- logits of every scale -------------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax_unless_it_is_too_sure() -> None:
    logits = torch.tensor([[3.0, 1.0, -40.0], [9.9, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(probabilities(logits), logits.softmax(1))
    torch.testing.assert_close(probabilities(logits * 2000)[1], (logits[1] * 10 / 9.9).softmax(0))


def test_probabilities_keep_a_gradient(problem: Problem) -> None:
    logits = torch.tensor([[4000.0, 0.0, -4000.0]], requires_grad=True)
    (dead,) = torch.autograd.grad(logits.softmax(1)[0, 0], logits)
    (alive,) = torch.autograd.grad(probabilities(logits)[0, 0], logits)
    assert (dead == 0).all()
    assert alive[0, 0] > 0 and alive[0, 0] == pytest.approx(-alive[0, 1].item(), rel=1e-2)


SETTINGS = {
    "apgd": {"loss": margin},
    "targeted_apgd": {},
    "md": {"restarts": 2},
    "pma": {},
    "gama": {},
    "mifpe": {"step_size": 0.004},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scale", [1e-4, 2000.0])
def test_the_scale_of_the_logits_changes_nothing(name: str, scale: float, linear: Callable[..., nn.Module]) -> None:
    # Images that are just within reach, and images just beyond it.
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(32, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(12, 32, generator=generator, dtype=torch.float64)
    x = x - (x @ w).unsqueeze(1) * w / w.dot(w)  # all on the boundary
    slack = torch.tensor([0.97, 1.03], dtype=torch.float64).repeat(6).unsqueeze(1)
    x = 0.5 + 0.2 * (x - slack * 0.1 * w.abs().sum() * w / w.dot(w))
    reach = ((x - 0.5) @ w).abs()
    model = linear(scale * torch.stack([0 * w, w]).float(), scale * torch.tensor([0.0, -0.5 * w.sum().item()]))
    threat, y = Linf("0.02"), torch.zeros(12, dtype=torch.int64)
    result = ATTACKS[name](
        model, x.float().view(12, 1, 4, 8), y, threat=threat, steps=40, generator=Streams.derive(0, range(12)),
        **SETTINGS[name],
    )  # fmt: skip
    assert result.broken.tolist() == (reach < 0.02 * w.abs().sum()).tolist() == [True, False] * 6


def test_mifpe_is_pgd_on_the_scale_invariant_loss(problem: Problem) -> None:
    arguments = {"threat": THREAT, "steps": 6, "generator": problem.streams}
    expected = pgd(problem.model, problem.x, problem.y, loss=scale_invariant, **arguments)  # type: ignore[arg-type]
    result = mifpe(problem.model, problem.x, problem.y, **arguments)  # type: ignore[arg-type]
    assert torch.equal(result.x_adv, expected.x_adv) and torch.equal(result.trace, expected.trace)
