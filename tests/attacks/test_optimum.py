"""On a linear model the best perturbation is known: attacks reach it, and none claims more than it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from unmask.attacks import ATTACKS, AttackResult
from unmask.losses import LOSSES
from unmask.streams import Streams
from unmask.threat import L1, L2, Linf, ThreatModel

# The box takes no part in WIDE threats, and stops many pixels in NARROW ones.
WIDE = [Linf("0.1", -9.0, 9.0), L2("0.5", -9.0, 9.0), L1("1.5", -9.0, 9.0)]
NARROW = [Linf("0.3"), L2("1.2"), L1("3.5")]


class Case(NamedTuple):
    """Images of class 0, a model of two classes, and the largest margin that every image admits."""

    model: nn.Module
    x: Tensor
    threat: ThreatModel
    gain: Tensor
    optimum: Tensor

    @property
    def y(self) -> Tensor:
        return torch.zeros(len(self.x), dtype=torch.int64)

    def reached(self, result: AttackResult) -> Tensor:
        """Return the share of the possible gain that the attack found."""
        return 1 + (result.margin - self.optimum) / self.gain


def largest_gain(threat: ThreatModel, x: np.ndarray, w: np.ndarray) -> float:
    """Maximise w . delta over ball and box, by means other than the library's."""
    low, high = threat.low - x, threat.high - x
    if threat.norm == "linf":
        bounds = np.stack([np.maximum(low, -threat.eps), np.minimum(high, threat.eps)], axis=1)
        return float(-linprog(-w, bounds=bounds).fun)
    if threat.norm == "l1":
        parts = [(0, room) for room in (*high, *-low)]
        budget = np.ones((1, 2 * len(w)))
        return float(-linprog(-np.concatenate([w, -w]), A_ub=budget, b_ub=[threat.eps], bounds=parts).fun)

    def best(multiplier: float) -> np.ndarray:
        return np.clip(w / multiplier, low, high)

    return float(w @ best(brentq(lambda m: np.linalg.norm(best(m)) - threat.eps, 1e-6, 1e6, xtol=1e-15)))


@pytest.fixture
def make_case(linear: Callable[..., nn.Module]) -> Callable[..., Case]:
    def make(threat: ThreatModel, slack: float, count: int = 6, size: int = 12) -> Case:
        """Build a case in which the easiest image's optimum is `slack` of the possible gain above (below) zero."""
        generator = torch.Generator().manual_seed(3)
        w = torch.randn(size, generator=generator, dtype=torch.float64)
        x = torch.rand(count, size, generator=generator, dtype=torch.float64)
        gain = torch.tensor([largest_gain(threat, row, w.numpy()) for row in x.numpy()], dtype=torch.float64)
        reach = x @ w + gain
        hardest_or_easiest = reach.min() if slack > 0 else reach.max()
        bias = slack * gain.mean() - hardest_or_easiest
        model = linear(torch.stack([torch.zeros_like(w), w]), torch.stack([torch.zeros_like(bias), bias]))
        return Case(model, x.view(count, 3, size // 3, 1), threat, gain, reach + bias)

    return make


class Row(NamedTuple):
    """An attack, its settings for a threat, and the share of the optimum that it must reach."""

    name: str
    share: float
    settings: Callable[[ThreatModel], dict[str, Any]] = lambda threat: {}

    def __call__(self, case: Case, **settings: Any) -> AttackResult:
        generator = Streams.derive(0, range(len(case.x)))
        own = {"surrogates": [case.model]} if self.name == "transfer" else {}
        settings = {**own, **self.settings(case.threat), **settings}
        return ATTACKS[self.name](case.model, case.x, case.y, threat=case.threat, generator=generator, **settings)

    def __str__(self) -> str:
        return self.name


EXACT = 1 - 1e-9
ROWS = [
    Row("fgsm", EXACT),
    Row("bim", EXACT),
    Row("mi_fgsm", EXACT),
    # Each random tenth of a step may point the wrong way, and then costs two tenths.
    Row("r_fgsm", 0.8, lambda threat: {"random_share": 0.1}),
    Row("pgd", 0.99, lambda threat: {"step_size": threat.eps / 10}),
    Row("cosine_pgd", 0.99),
    Row("targeted_pgd", 0.99, lambda threat: {"steps": 40, "step_size": threat.eps / 10}),
    Row("apgd", 0.99),
    Row("targeted_apgd", 0.99),
    Row("md", 0.99),
    Row("pma", 0.99),
    Row("gama", 0.99),
    Row("mifpe", 0.99, lambda threat: {"steps": 40, "step_size": threat.eps / 10}),
    Row("transfer", 0.99, lambda threat: {"steps": 40, "step_size": threat.eps / 10, "diversity": 0.0}),
]
# These look for the nearest adversarial point: the margins of images that hold are none of their aims.
NEAREST = [Row("fab", 0.99), Row("fmn", 0.99)]
every_row = pytest.mark.parametrize("attack", ROWS, ids=str)


def test_every_attack_that_follows_gradients_is_here() -> None:
    assert {row.name for row in [*ROWS, *NEAREST]} == set(ATTACKS) - {
        "hop_skip_jump",
        "spsa",
        "square",
        "random_noise",
    }


@every_row
@pytest.mark.parametrize("threat", WIDE, ids=str)
def test_the_optimum_is_reached_where_it_does_not_break(
    attack: Row, threat: ThreatModel, make_case: Callable[..., Case]
) -> None:
    case = make_case(threat, slack=-0.002)
    result = attack(case)
    assert not result.broken.any()
    assert (case.reached(result) >= attack.share).all()
    assert (case.reached(result) <= 1 + 1e-9).all()


@every_row
@pytest.mark.parametrize("threat", NARROW, ids=str)
def test_the_optimum_is_reached_where_the_box_takes_part(
    attack: Row, threat: ThreatModel, make_case: Callable[..., Case]
) -> None:
    case = make_case(threat, slack=-0.002)
    result = attack(case)
    # What the box cuts off a step is lost to attacks that count their steps. Those with steps to spare make up for it
    # in L2; in L1 the last pixels go to and fro, as each step takes from all pixels what it gives to one.
    spare = attack.name in ("pgd", "cosine_pgd", "targeted_pgd")
    short = {"linf": 1.0, "l2": 1.0 if spare else 0.75, "l1": 0.96 if spare else 0.9}[threat.norm]
    assert not result.broken.any()
    assert (case.reached(result) >= short * attack.share).all()
    assert (case.reached(result) <= 1 + 1e-9).all()


def test_one_step_in_l1_is_exact_within_the_box(make_case: Callable[..., Case]) -> None:
    case = make_case(NARROW[2], slack=-0.002)
    assert (case.reached(Row("fgsm", EXACT)(case)) >= EXACT).all()


@pytest.mark.parametrize("attack", [*ROWS, *NEAREST], ids=str)
@pytest.mark.parametrize("threat", [*WIDE, NARROW[0]], ids=str)
def test_what_can_only_just_be_broken_is_broken(
    attack: Row, threat: ThreatModel, make_case: Callable[..., Case]
) -> None:
    case = make_case(threat, slack=1 - attack.share + 0.001)
    result = attack(case)
    assert result.broken.all()
    assert (result.margin >= 0).all()
    assert (case.reached(result) <= 1 + 1e-9).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["pgd", "cosine_pgd", "targeted_pgd"])
@pytest.mark.parametrize("threat", WIDE, ids=str)
def test_the_optimum_is_reached_with_every_loss(
    loss: str, name: str, threat: ThreatModel, make_case: Callable[..., Case]
) -> None:
    attack = next(row for row in ROWS if row.name == name)
    case = make_case(threat, slack=-0.002, count=3)
    assert (case.reached(attack(case, loss=LOSSES[loss])) >= attack.share).all()


@pytest.mark.parametrize("threat", WIDE, ids=str)
@pytest.mark.parametrize("aim", [1, 2])
def test_a_targeted_attack_reaches_the_targets_own_optimum(
    threat: ThreatModel, aim: int, linear: Callable[..., nn.Module]
) -> None:
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    x = torch.rand(1, 12, generator=generator, dtype=torch.float64).view(1, 3, 4, 1)
    bias = torch.zeros(3, dtype=torch.float64)
    direction = weights[aim] - weights[0]
    gain = largest_gain(threat, x.flatten().numpy(), direction.numpy())
    bias[aim] = -direction @ x.flatten() - 1.001 * gain
    bias[3 - aim] = -1000.0  # the other class is out of reach, so that the margin is the target's
    result = ATTACKS["cosine_pgd"](
        linear(weights, bias), x, torch.tensor([0]), threat=threat, target=torch.tensor([aim]),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert -0.011 * gain < result.margin.item() < -0.0009 * gain


@pytest.mark.parametrize("threat", WIDE[:2], ids=str)
def test_spsa_comes_close_without_gradients(threat: ThreatModel, make_case: Callable[..., Case]) -> None:
    case = make_case(threat, slack=-0.002, count=3)
    settings = {"steps": 60, "step_size": threat.eps / 10, "delta": 0.01, "samples": 24}
    result = Row("spsa", 0.95)(case, **settings)
    assert (case.reached(result) > 0.95).all()
    assert (case.reached(result) <= 1 + 1e-9).all()
    assert not result.broken.any()
    assert Row("spsa", 0.95)(make_case(threat, slack=0.051, count=3), **settings).broken.all()


@pytest.mark.parametrize("threat", [WIDE[0], NARROW[0]], ids=str)
def test_square_windows_find_the_optimum_without_gradients(threat: ThreatModel, make_case: Callable[..., Case]) -> None:
    case = make_case(threat, slack=-0.002, count=3)
    result = Row("square", 0.99)(case, queries=400)
    assert (case.reached(result) > 0.99).all()
    assert (case.reached(result) <= 1 + 1e-9).all()
    assert not result.broken.any()


@pytest.mark.parametrize("threat", [Linf("0.1", -9.0, 9.0), L1("1.5", -9.0, 9.0), Linf("0.3"), L1("0.9")], ids=str)
def test_random_corners_of_three_pixels_hold_the_optimum(threat: ThreatModel, make_case: Callable[..., Case]) -> None:
    # Three pixels have 8 corners for Linf and, but for the box, 6 for L1: 100 draws find the best one.
    case = make_case(threat, slack=-0.002, count=3, size=3)
    result = Row("random_noise", EXACT)(case, restarts=100)
    assert (case.reached(result) >= EXACT).all()
    assert (case.reached(result) <= 1 + 1e-9).all()
    assert Row("random_noise", EXACT)(make_case(threat, slack=0.001, count=3, size=3), restarts=100).broken.all()


def test_random_points_of_a_sphere_come_close_to_the_optimum(make_case: Callable[..., Case]) -> None:
    case = make_case(WIDE[1], slack=-0.002, count=3, size=3)
    reached = case.reached(Row("random_noise", 0.9)(case, restarts=100))
    assert (reached >= 0.9).all() and (reached <= 1 + 1e-9).all()
