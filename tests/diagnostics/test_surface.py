"""Loss surfaces of models whose loss, gradient and curvature are known in closed form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from counted import Counted, refused, shelf
from torch import Tensor

import unmask
from unmask.diagnostics.eigenvectors import eigenvectors
from unmask.diagnostics.sample import Sample
from unmask.diagnostics.surface import surface
from unmask.errors import AuditError, ModelError

EPS, PIXELS, CLASSES = 0.1, 9, 4


WEIGHTS = torch.randn(CLASSES, PIXELS, generator=torch.Generator().manual_seed(1))


def sample_of(logits: Callable[[Tensor], Tensor], count: int = 3, seed: int = 4) -> tuple[Counted, Sample]:
    model = Counted(logits)
    x = torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    return model, Sample.of(model, x, torch.arange(count) % 2, unmask.Linf(EPS), ids=range(50, 50 + count), seed=seed)


def linear(flat: Tensor) -> Tensor:
    return flat @ WEIGHTS.T


def rippled(flat: Tensor) -> Tensor:
    wave = torch.sin(250 * flat.mean(1))
    return torch.stack([wave, -wave], 1)


def gradient_sign(sample: Sample) -> Tensor:
    """Return the sign of the linear model's gradient, W^T (p - e_y), of every image: (B, D)."""
    wrongness = linear(sample.x.flatten(1)).softmax(1)
    wrongness[torch.arange(len(sample)), sample.y] -= 1
    return (wrongness @ WEIGHTS).sign()


def hessian(sample: Sample, image: int) -> Tensor:
    """Return the linear model's Hessian W^T (diag p - p p^T) W at an image: (D, D)."""
    p = linear(sample.x[image].flatten()[None]).softmax(1)[0]
    return WEIGHTS.T @ (p.diag() - p[:, None] * p) @ WEIGHTS


def expected(sample: Sample, first: Tensor, second: Tensor, axis: list[float]) -> Tensor:
    """Return the linear model's loss on the grid of every image: (B, P, P), by the definition."""
    losses = torch.empty(len(sample), len(axis), len(axis))
    for image in range(len(sample)):
        for i, a in enumerate(axis):
            for j, b in enumerate(axis):
                logits = linear((sample.x[image].flatten() + a * first[image] + b * second[image])[None])[0]
                losses[image, i, j] = logits.logsumexp(0) - logits[sample.y[image]]
    return losses


def test_the_surface_is_that_of_the_closed_form() -> None:
    _, sample = sample_of(linear)
    finding = surface(sample, points=5)
    axis = [-EPS, -EPS / 2, 0.0, EPS / 2, EPS]
    assert finding.evidence["axis"] == pytest.approx(axis) and finding.evidence["axis"][2] == 0
    signs = sample.streams.child("surface").child("random", 0).signs((PIXELS,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    losses = torch.tensor(finding.evidence["loss"])
    torch.testing.assert_close(losses, expected(sample, signs, gradient_sign(sample), axis), atol=1e-5, rtol=0)
    assert losses.shape == (3, 5, 5) and float((losses - losses.transpose(1, 2)).abs().max()) > 0.01
    assert finding.evidence["ids"] == [50, 51, 52] and finding.evidence["directions"] == ["random", "adversarial"]
    assert finding.evidence["guarantee"] == pytest.approx(math.log(CLASSES))
    assert (finding.evidence["eps"], finding.evidence["n"]) == (EPS, 3)
    assert finding.status == "ok" and finding.next_step == ""


def test_two_random_directions_differ_and_swapped_names_swap_axes() -> None:
    _, sample = sample_of(linear)
    axis = [-0.3, 0.0, 0.3]
    first, second = (sample.streams.child("surface").child("random", place).signs((PIXELS,)) for place in range(2))
    twice = surface(sample, directions=("random", "random"), span=0.3, points=3)
    torch.testing.assert_close(
        torch.tensor(twice.evidence["loss"]), expected(sample, first, second, axis), atol=1e-5, rtol=0
    )
    assert not torch.equal(first, second)
    swapped = surface(sample, directions=("adversarial", "random"), span=0.3, points=3)
    torch.testing.assert_close(
        torch.tensor(swapped.evidence["loss"]),
        expected(sample, gradient_sign(sample), second, axis),
        atol=1e-5,
        rtol=0,
    )


def test_points_outside_of_the_pixel_box_are_not_clipped() -> None:
    _, sample = sample_of(linear)
    finding = surface(sample, span=5.0, points=3)
    signs = sample.streams.child("surface").child("random", 0).signs((PIXELS,))
    torch.testing.assert_close(
        torch.tensor(finding.evidence["loss"]),
        expected(sample, signs, gradient_sign(sample), [-5.0, 0.0, 5.0]),
        atol=1e-4,
        rtol=1e-4,
    )


def test_eigenvectors_are_those_of_the_hessian() -> None:
    _, sample = sample_of(linear)
    finding = surface(sample, directions=("eigen-1", "eigen-2"), points=5)
    leading = [torch.linalg.eigh(hessian(sample, image).double()).eigenvectors.flip(1)[:, :2].T for image in range(3)]
    vectors = torch.stack(leading)
    vectors = (vectors / vectors.gather(2, vectors.abs().argmax(2, keepdim=True))).float()
    torch.testing.assert_close(
        torch.tensor(finding.evidence["loss"]),
        expected(sample, vectors[:, 0], vectors[:, 1], finding.evidence["axis"]),
        atol=1e-4,
        rtol=0,
    )
    assert finding.evidence["flat"] == 0


def test_a_hessian_of_rank_one_has_no_second_eigenvector() -> None:
    _, sample = sample_of(lambda flat: torch.stack([flat @ WEIGHTS[0], 0 * flat[:, 0]], 1))
    finding = surface(sample, directions=("eigen-1", "eigen-2"), points=5)
    losses = torch.tensor(finding.evidence["loss"])
    assert finding.evidence["flat"] == 3 and finding.status == "ok"
    torch.testing.assert_close(losses, losses[:, :, :1].expand_as(losses))
    assert float((losses[:, 0] - losses[:, 4]).abs().min()) > 0.01


@pytest.mark.parametrize(
    "directions",
    [("random", "random"), ("random", "adversarial"), ("adversarial", "eigen-1"), ("eigen-1", "eigen-2")],
)
def test_passes_are_counted_exactly(directions: tuple[str, str]) -> None:
    model, sample = sample_of(linear)
    finding = surface(sample, directions=directions, points=7, batch_size=10)
    assert (finding.forwards, finding.backwards) == (model.forwards, model.backwards)
    assert finding.forwards == 3 * (49 + (directions != ("random", "random"))) and model.largest == 10


def test_the_batch_size_and_the_company_change_nothing() -> None:
    _, sample = sample_of(linear)
    whole = surface(sample, points=5, batch_size=100)
    torch.testing.assert_close(
        torch.tensor(surface(sample, points=5, batch_size=3).evidence["loss"]), torch.tensor(whole.evidence["loss"])
    )
    alone = surface(sample.select(torch.tensor([1])), points=5, batch_size=100)
    assert alone.evidence["loss"] == [whole.evidence["loss"][1]] and alone.evidence["ids"] == [51]


def test_a_rippled_surface_warns_and_counts_its_turns() -> None:
    _, sample = sample_of(rippled)
    finding = surface(sample, directions=("adversarial", "random"), points=81)
    # All pixels move together along the adversarial direction: 2 * 0.1 * 250 / pi turns, give or take the ends.
    assert finding.status == "warn" and "jagged" in finding.summary and "large steps" in finding.next_step
    losses = torch.tensor(finding.evidence["loss"])
    rises = (losses.diff(dim=1) > 0)[:, :, 40]
    assert ((rises[:, 1:] != rises[:, :-1]).sum(1) - 50 / math.pi).abs().max() <= 1
    assert finding.evidence["turns"] > 5


@pytest.mark.parametrize("height", [-10, 10], ids=["valley", "hill"])
def test_a_valley_and_a_hill_turn_once(height: float) -> None:
    _, sample = sample_of(lambda flat: torch.stack([(flat.mean(1) - 0.5).abs() * height, 0 * flat[:, 0]], 1), 1)
    near = replace(sample, x=torch.full((1, 1, 3, 3), 0.49))
    found = surface(near, directions=("adversarial", "random"), points=21)
    across = torch.tensor(found.evidence["loss"])[0][:, 10].diff() > 0
    assert int((across[1:] != across[:-1]).sum()) == 1 and bool(across[0]) is (height > 0)
    assert 0.4 < found.evidence["turns"] <= 1 and found.status == "ok"


def test_a_slope_never_turns() -> None:
    _, sample = sample_of(lambda flat: torch.stack([flat @ WEIGHTS[0], 0 * flat[:, 0]], 1))
    assert surface(sample).evidence["turns"] == 0


def test_noise_below_a_hundredth_of_the_range_makes_no_turns() -> None:
    _, sample = sample_of(
        lambda flat: torch.stack([flat.sum(1) + 0.003 * (1e4 * flat.sum(1)).sin(), 0 * flat[:, 0]], 1), 1
    )
    finding = surface(sample, directions=("random", "random"), points=201)
    line = torch.tensor(finding.evidence["loss"])[0][:, 100].diff() > 0
    assert int((line[1:] != line[:-1]).sum()) > 10 and finding.evidence["turns"] == 0


def test_a_loss_without_slope_warns() -> None:
    model, sample = sample_of(lambda flat: torch.tensor([[500.0, 0.0]]) + 0 * flat[:, :2])
    finding = surface(replace(sample, y=torch.zeros(3, dtype=torch.int64)), points=3)
    assert finding.status == "warn" and "gradient is zero" in finding.summary and "margin" in finding.next_step
    assert (finding.forwards, finding.backwards) == (model.forwards, model.backwards)


def test_a_model_without_gradients_costs_no_backward_passes() -> None:
    _, sample = sample_of(linear)
    detached = replace(sample, model=lambda images: linear(images.detach().flatten(1)))
    finding = surface(detached, directions=("adversarial", "eigen-1"), points=3)
    assert (finding.forwards, finding.backwards) == (3 * 10, 0) and finding.evidence["flat"] == 3


def test_a_model_that_cannot_be_differentiated_twice_is_named() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * 1

    _, sample = sample_of(lambda flat: linear(Once.apply(flat)))
    with pytest.raises(ModelError, match="differentiated twice"):
        surface(sample, directions=("eigen-1", "random"), points=3)
    assert surface(sample, points=3).status == "ok"


def test_losses_beyond_all_floats_stay_numbers() -> None:
    _, sample = sample_of(lambda flat: torch.tensor([[-3e38, 3e38]]) + 0 * flat[:, :2], 1)
    finding = surface(sample, directions=("random", "random"), points=3)
    assert finding.evidence["loss"] == [[[torch.finfo(torch.float32).max] * 3] * 3]


def test_a_second_run_computes_nothing_and_finds_the_same() -> None:
    _, sample = sample_of(linear)
    parts, keep = shelf()
    told: list[tuple[int, int]] = []
    first = surface(sample, points=5, keep=keep)
    again = surface(replace(sample, model=refused), points=5, keep=keep, watch=lambda done, of: told.append((done, of)))
    assert first == again and len(parts) == 3 and told == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(json.dumps(first.evidence, allow_nan=False)) == first.evidence


def test_the_default_span_leads_to_the_edge_of_the_ball() -> None:
    _, sample = sample_of(linear, 1)
    spans = [
        surface(replace(sample, threat=threat), points=3).evidence["axis"][-1]
        for threat in (unmask.Linf(0.2), unmask.L2(0.6), unmask.L1(1.8))
    ]
    assert spans == pytest.approx([0.2, 0.2, 0.2])


def test_parameters_and_their_gradients_are_left_alone() -> None:
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(PIXELS, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    )
    _, sample = sample_of(linear)
    finding = surface(replace(sample, model=network.eval()), directions=("eigen-1", "eigen-2"), points=3)
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert finding.evidence["flat"] == 0 and not network.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": ("random", "eigen")}, "no direction 'eigen'"),
        ({"directions": ("eigen-1", "eigen-1")}, "Both directions are 'eigen-1'"),
        ({"directions": ("random",)}, "1 directions came"),
        ({"points": 40}, "points is 40; expected an odd number"),
        ({"points": 1}, "points is 1"),
        ({"span": 0.0}, "Span in pixels: got 0"),
        ({"span": math.inf}, "Span in pixels: got inf"),
        ({"eigen_steps": 1}, "eigen_steps is 1; expected 2"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, object], message: str) -> None:
    _, sample = sample_of(linear)
    with pytest.raises(AuditError, match=message):
        surface(sample, **settings)


def test_an_empty_sample_is_refused() -> None:
    _, sample = sample_of(linear)
    with pytest.raises(AuditError, match="no images"):
        surface(sample.first(0))


# ----------------------------------------------------------------------------------------------------- eigenvectors


def test_the_lanczos_method_finds_leading_eigenvectors_of_either_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64, generator=generator)).Q
    values = torch.cat([torch.tensor([-5.0, 3.0]), torch.linspace(-1, 1, 58)]).double()
    matrix = basis * values @ basis.T
    vectors, products = eigenvectors(lambda v: matrix @ v, torch.randn(60, generator=generator).double(), 25, 2)
    assert products == 25
    for place in range(2):
        reference = basis[:, place] / basis[basis[:, place].abs().argmax(), place]
        torch.testing.assert_close(vectors[place], reference, atol=1e-6, rtol=0)


def test_the_lanczos_method_ends_once_it_has_all_that_matters() -> None:
    direction = torch.tensor([1.0, -2.0, 0.5, 0.0])
    vectors, products = eigenvectors(lambda v: direction * (direction @ v), torch.ones(4), 20, 2)
    torch.testing.assert_close(vectors, torch.stack([direction / -2, torch.zeros(4)]))
    assert products == 2
    vectors, products = eigenvectors(torch.zeros_like, torch.ones(4), 20, 2)
    assert products == 1 and not vectors.any()
