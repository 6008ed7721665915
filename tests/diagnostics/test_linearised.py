"""Equation 4 against closed forms and naive loops, and the accuracy it predicts against FGSM's."""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unmask
from unmask import L1, L2, Linf
from unmask.attacks import fgsm
from unmask.data import available
from unmask.diagnostics.linearised import linearised
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError, DataError
from unmask.losses import cross_entropy, margin
from unmask.models import build, load_model

SHAPE = (1, 3, 4)
NORMS = {"linf": (Linf, 1), "l2": (L2, 2), "l1": (L1, torch.inf)}
FIGURES = ("logit_gap", "gradient_gap", "eps_linear", "cosine", "gradient_norm")


class Counted:
    """A model, and how many images went forwards and backwards through it."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.forwards, self.backwards = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(classes: int, seed: int = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    weights = random(classes, 12, seed=seed)
    return (lambda x: (x - 0.5).flatten(1) @ weights.T), weights


def images(n: int, seed: int = 1) -> Tensor:
    return 0.5 + 0.03 * random(n, *SHAPE, seed=seed).clamp(-3, 3)


def sampled(model: Callable[[Tensor], Tensor], n: int, threat: Any, wrong: int = 3) -> Sample:
    """Return images that the model has right, but for the first `wrong`."""
    x = images(n)
    logits = model(x)
    y = logits.argmax(1)
    y[:wrong] = logits[:wrong].argmin(1)
    return Sample.of(model, x, y, threat)


def naive(logits: Tensor, gradients: Tensor, y: Tensor, order: float) -> dict[str, list[float]]:
    """Equation 4, image by image and class by class: logits (B, K), gradients (B, K, D)."""
    rows = []
    for z, g, own in zip(logits.double(), gradients.double(), y.tolist(), strict=True):
        others = [j for j in range(len(z)) if j != own]
        gaps = {j: (z[own] - z[j]).item() for j in others}
        rises = {j: torch.linalg.vector_norm(g[own] - g[j], ord=order).item() for j in others}
        least = min(others, key=lambda j: gaps[j] / rises[j])
        cosine = (g[own] @ g[least] / (g[own].norm() * g[least].norm())).item()
        length = torch.linalg.vector_norm(g[own], ord=order).item()
        rows.append((gaps[least], rises[least], gaps[least] / rises[least], cosine, length))
    return {name: list(column) for name, column in zip(FIGURES, zip(*rows, strict=True), strict=True)}


def agree(evidence: Any, expected: dict[str, list[float]], tolerance: float = 1e-5) -> None:
    for name in FIGURES:
        assert evidence[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-6), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 200])
def test_a_linear_model_gives_equation_4_exactly(norm: str, classes: int) -> None:
    build_threat, order = NORMS[norm]
    model, weights = linear(classes)
    sample = sampled(model, 20, build_threat(0.02))
    evidence = linearised(sample).evidence
    agree(evidence, naive(model(sample.x), weights.expand(20, -1, -1), sample.y, order))
    assert all(least <= 0 for least in evidence["eps_linear"][:3])
    assert all(least > 0 for least in evidence["eps_linear"][3:])


def test_a_quadratic_model_is_taken_at_its_tangent() -> None:
    bend, weights = random(4, seed=2), random(4, 12, seed=3)

    def quadratic(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat @ weights.T + flat.square().sum(1, keepdim=True) * bend / 2

    sample = sampled(quadratic, 20, Linf(0.05))
    gradients = weights + bend[:, None] * sample.x.flatten(1)[:, None]
    agree(linearised(sample).evidence, naive(quadratic(sample.x), gradients, sample.y, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_two_linear_classes_fall_to_fgsm_as_predicted(norm: str) -> None:
    build_threat, _ = NORMS[norm]
    model, _ = linear(2)
    eps = {"linf": 0.015, "l2": 0.04, "l1": 0.1}[norm]
    finding = linearised(sampled(model, 60, build_threat(eps)))
    curve = finding.evidence["curve"]
    assert curve["predicted"] == curve["empirical_cross_entropy"] == curve["empirical_margin"]
    assert curve["predicted"][0] > finding.evidence["predicted"] > curve["predicted"][-1]
    assert set(finding.evidence["empirical"].values()) == {finding.evidence["predicted"]}
    assert finding.status == "ok" and not finding.next_step


@pytest.mark.parametrize("classes", [3, 200])
def test_no_single_step_leaves_less_of_a_linear_model_than_predicted(classes: int) -> None:
    model, _ = linear(classes)
    curve = linearised(sampled(model, 60, Linf(0.01))).evidence["curve"]
    for name in ("empirical_cross_entropy", "empirical_margin"):
        assert all(left >= predicted for left, predicted in zip(curve[name], curve["predicted"], strict=True))
    assert 0 < curve["predicted"][1] < 1


def test_each_attack_climbs_its_own_loss() -> None:
    sample = sampled(linear(200)[0], 60, Linf(0.004))
    curve = linearised(sample).evidence["curve"]
    for name, loss in (("cross_entropy", cross_entropy), ("margin", margin)):
        for eps, left in zip(curve["eps"], curve[f"empirical_{name}"], strict=True):
            result = fgsm(sample.model, sample.x, sample.y, threat=Linf(eps), loss=loss)
            assert left == pytest.approx((~result.broken).float().mean().item())
    assert curve["empirical_cross_entropy"] != curve["empirical_margin"]


def test_a_network_agrees_with_a_loop_over_images_and_classes() -> None:
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0)).eval()
    data = unmask.load_data("digits", "test").first(9)
    x, y = data.pixels(), data.labels
    gradients = torch.zeros(9, 10, 64)
    for row in range(9):
        for k in range(10):
            leaf = x[row : row + 1].clone().requires_grad_()
            gradients[row, k] = torch.autograd.grad(model(leaf)[0, k], leaf)[0].flatten()
    finding = linearised(Sample.of(model, x, y, Linf(0.1)), batch_size=4)
    agree(finding.evidence, naive(model(x).detach(), gradients, y, 1), 1e-4)
    assert all(weights.grad is None and weights.requires_grad for weights in model.parameters())


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0)).eval()
    data = unmask.load_data("digits", "test").first(20)
    sample = Sample.of(model, data.pixels(), data.labels, L2(0.5))
    small, whole = linearised(sample, batch_size=batch_size), linearised(sample)
    agree(small.evidence, {name: whole.evidence[name] for name in FIGURES}, 1e-4)
    assert [small.evidence[name] for name in ("predicted", "empirical", "curve")] == [
        whole.evidence[name] for name in ("predicted", "empirical", "curve")
    ]
    assert (small.forwards, small.backwards) == (whole.forwards, whole.backwards)


@pytest.mark.parametrize("classes", [2, 3, 200])
def test_every_pass_is_counted(classes: int) -> None:
    sample = sampled(linear(classes)[0], 20, Linf(0.01), wrong=5)
    counted = Counted(sample.model)
    finding = linearised(Sample.of(counted, sample.x, sample.y, sample.threat), batch_size=8)
    assert (finding.forwards, finding.backwards) == (counted.forwards, counted.backwards)
    runs = 2 * 7
    assert finding.forwards == 2 * 20 + 2 * 15 * runs
    assert finding.backwards == classes * 20 + 15 * runs


def test_misclassified_images_count_as_wrong() -> None:
    model, _ = linear(3)
    evidence = linearised(sampled(model, 20, Linf(1e-6), wrong=4)).evidence
    assert evidence["predicted"] == 0.8 and set(evidence["empirical"].values()) == {0.8}
    assert [least > 0 for least in evidence["eps_linear"]] == [False] * 4 + [True] * 16
    assert all(gap < 0 for gap in evidence["logit_gap"][:4])


def test_a_model_that_is_always_wrong_is_not_attacked() -> None:
    finding = linearised(sampled(linear(3)[0], 10, Linf(0.01), wrong=10))
    assert finding.evidence["predicted"] == 0 and set(finding.evidence["empirical"].values()) == {0.0}
    assert (finding.forwards, finding.backwards) == (20, 30)


def test_level_logits_are_infinitely_far_and_say_so() -> None:
    x = images(10)
    y = torch.tensor([0] * 8 + [1] * 2)
    finding = linearised(Sample.of(lambda x: x.new_tensor([1.0, 0.0]).expand(len(x), 2), x, y, Linf(0.1)))
    evidence = finding.evidence
    assert evidence["eps_linear"] == [None] * 8 + [0.0] * 2
    assert evidence["logit_gap"] == [1.0] * 8 + [-1.0] * 2
    assert evidence["gradient_gap"] == evidence["gradient_norm"] == [0.0] * 10 and evidence["cosine"] == [None] * 10
    assert evidence["predicted"] == 0.8 and finding.backwards == 0
    assert finding.status == "warn" and "level" in finding.summary and finding.next_step
    json.dumps(evidence, allow_nan=False)


def test_of_level_classes_the_likeliest_is_shown() -> None:
    x, y = images(2), torch.zeros(2, dtype=torch.int64)
    evidence = linearised(
        Sample.of(lambda x: x.new_tensor([2.0, -1.0, 1.5]).expand(len(x), 3), x, y, Linf(0.1))
    ).evidence
    assert evidence["logit_gap"] == [0.5, 0.5]


def test_a_class_that_moves_with_the_true_one_is_never_reached() -> None:
    model, weights = linear(2)

    def with_shadow(x: Tensor) -> Tensor:
        z = model(x)
        return torch.stack([z[:, 0], z[:, 1], z[:, 0] - 1e-3], dim=1)

    x = images(10)
    evidence = linearised(Sample.of(with_shadow, x, torch.zeros(10, dtype=torch.int64), Linf(0.1))).evidence
    z = model(x).double()
    assert evidence["logit_gap"] == pytest.approx((z[:, 0] - z[:, 1]).tolist(), rel=1e-5)
    assert evidence["gradient_gap"] == pytest.approx([(weights[0] - weights[1]).abs().sum().item()] * 10)


def test_logits_that_saturate_are_found_not_to_be_linear() -> None:
    def saturating(x: Tensor) -> Tensor:
        rival = torch.tanh(10 * (x.flatten(1).mean(1) - 0.5)) / 2 - 0.6
        return torch.stack([torch.zeros_like(rival), rival], dim=1)

    x = torch.full((10, *SHAPE), 0.5)
    finding = linearised(Sample.of(saturating, x, torch.zeros(10, dtype=torch.int64), Linf(0.2)))
    assert finding.evidence["eps_linear"] == pytest.approx([0.12] * 10)
    assert finding.evidence["predicted"] == 0 and set(finding.evidence["empirical"].values()) == {1.0}
    assert finding.status == "warn" and "not linear" in finding.summary and finding.next_step


def test_the_histogram_holds_every_logit() -> None:
    sample = sampled(lambda x: x.flatten(1)[:, :3], 20, Linf(0.01))
    logits = linearised(sample, batch_size=6).evidence["logits"]
    counts, edges = np.histogram(sample.x.flatten(1)[:, :3].double().numpy(), bins=50)
    assert logits["counts"] == counts.tolist() and sum(logits["counts"]) == 60
    assert logits["edges"] == pytest.approx(edges.tolist())


@pytest.mark.parametrize("value", [0.0, -1e20])
def test_the_histogram_of_a_single_value_has_room(value: float) -> None:
    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    logits = linearised(Sample.of(lambda x: x.new_full((len(x), 3), value), x, y, Linf(0.01))).evidence["logits"]
    assert sum(logits["counts"]) == 12
    assert all(low < high for low, high in zip(logits["edges"], logits["edges"][1:], strict=False))


@pytest.mark.parametrize(("eps", "sizes"), [(0.8, [0.08, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.0, [0.0])])
def test_the_curve_stays_within_the_pixels_and_passes_through_eps(eps: float, sizes: list[float]) -> None:
    evidence = linearised(sampled(linear(2)[0], 10, Linf(eps))).evidence
    curve = evidence["curve"]
    assert curve["eps"] == pytest.approx(sizes)
    here = curve["eps"].index(evidence["eps"])
    assert curve["predicted"][here] == evidence["predicted"]
    assert curve["empirical_margin"][here] == evidence["empirical"]["fgsm, margin"]


def test_kept_parts_are_not_computed_again() -> None:
    sample = sampled(linear(3)[0], 20, Linf(0.01))
    counted = Counted(sample.model)
    sample = Sample.of(counted, sample.x, sample.y, sample.threat, ids=range(100, 120))
    kept: dict[str, str] = {}

    def keep(name: str, compute: Callable[[], Any]) -> Any:
        if name not in kept:
            kept[name] = json.dumps(compute(), allow_nan=False)
        return json.loads(kept[name])

    first = linearised(sample, batch_size=8, keep=keep)
    passes = counted.forwards, counted.backwards
    assert linearised(sample, batch_size=8, keep=keep) == first == linearised(sample, batch_size=8)
    assert passes == (first.forwards, first.backwards) == (counted.forwards / 2, counted.backwards / 2)
    assert len(kept) == 1 + 3 + 2 * 7
    assert linearised(sample, batch_size=5, keep=keep).evidence["curve"] == first.evidence["curve"]


def test_unusable_input_is_refused() -> None:
    sample = sampled(linear(3)[0], 5, Linf(0.01))
    with pytest.raises(DataError, match="no images"):
        linearised(sample.first(0))
    with pytest.raises(AuditError, match="batch_size is 0; expected 1"):
        linearised(sample, batch_size=0)
    with pytest.raises(DataError, match="3 classes"):
        linearised(Sample.of(sample.model, sample.x, sample.y + 3, sample.threat))


@pytest.mark.real
def test_adversarial_training_shrinks_the_gradient_gap_more_than_the_logit_gap() -> None:
    if not available("mnist", None):
        pytest.skip("MNIST is not under $UNMASK_DATA")
    data = unmask.load_data("mnist", "test").first(64)
    plain, trained = (
        linearised(Sample.of(load_model(name).model.eval(), data.pixels(), data.labels, Linf(0.3))).evidence
        for name in ("mnist-plain", "mnist-at")
    )
    logit_gap, gradient_gap = (median(trained[key]) / median(plain[key]) for key in ("logit_gap", "gradient_gap"))
    assert gradient_gap < logit_gap < 1
    assert median(trained["eps_linear"]) > 2 * median(plain["eps_linear"])
    assert plain["predicted"] == 0 and 0.1 < trained["predicted"] < min(trained["empirical"].values()) - 0.2
