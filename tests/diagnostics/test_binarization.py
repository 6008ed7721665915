"""The binarization test: sound attacks pass it, weak ones and blocked gradients fail it, and its figures are exact."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.attacks import cosine_pgd, pgd
from unmask.data import available
from unmask.diagnostics.binarization import Binary, binarization
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError
from unmask.models import build, load_model
from unmask.training import Training, fit, plain

SMALL = {"inner": 200, "draws": 50}


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return (x * 16).round() / 16

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Masked(nn.Module):
    """A network behind a rounding that hands no gradient back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(Rounded.apply(x))
        return logits


class Steered(nn.Module):
    """Two features of the image by hand, and a linear layer over them."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def strong(model, x, y, threat, streams) -> Tensor:
    return cosine_pgd(model, x, y, threat=threat, steps=40, restarts=3, generator=streams).x_adv


def usual(model, x, y, threat, streams) -> Tensor:
    return pgd(model, x, y, threat=threat, steps=40, generator=streams).x_adv


def weak(model, x, y, threat, streams) -> Tensor:
    return pgd(model, x, y, threat=threat, steps=1, step_size=threat.eps / 100, generator=streams).x_adv


def idle(model, x, y, threat, streams) -> Tensor:
    return x


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0))
    data = unmask.load_data("digits", "train")
    trained = fit(model, data, Training(plain(), epochs=3, batch_size=64), seed=0).eval()
    trained.zero_grad()
    return trained


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    """Return a linear network of 64 pixels: every binary problem of it is linear in the image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


def digits(model: Callable[[Tensor], Tensor], n: int = 10, threat: unmask.ThreatModel | None = None) -> Sample:
    data = unmask.load_data("digits", "test").first(n)
    return Sample.of(model, data.pixels(), data.labels, threat or unmask.Linf(0.2))


def inner_images(model: nn.Module, n: int = 4, threat: unmask.ThreatModel | None = None) -> Sample:
    """Return images so far from black and white that the box cuts nothing off the ball."""
    x = 0.4 + 0.2 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Sample.of(model, x, torch.zeros(n, dtype=torch.int64), threat or unmask.Linf(0.1))


def test_a_strong_attack_passes_and_chance_does_not(network):
    finding = binarization(digits(network, 20), strong, attack_name="cosine_pgd", **SMALL)
    evidence = finding.evidence
    assert finding.status == "ok" and finding.next_step == ""
    assert evidence["n"] == evidence["valid"] == 20
    assert evidence["success_rate"] >= 0.95 and evidence["random_success_rate"] <= 0.2
    assert (evidence["inner"], evidence["outer"], evidence["threshold"]) == (200, 1, 0.95)
    assert evidence["attack"] == "cosine_pgd" and "last linear layer" in evidence["features"]
    json.dumps(evidence, allow_nan=False)


def test_a_weak_attack_fails(network):
    finding = binarization(digits(network, 20), weak, attack_name="one tiny step", **SMALL)
    assert finding.status == "fail" and finding.evidence["success_rate"] <= 0.2
    assert "one tiny step" in finding.summary and "one tiny step" in finding.next_step


def test_blocked_gradients_fail_the_usual_attack_and_not_what_goes_around_them(network):
    sample = digits(Masked(network).eval())
    assert binarization(sample, usual, **SMALL).status == "fail"

    def around(model: Binary, x: Tensor, y: Tensor, threat: unmask.ThreatModel, streams) -> Tensor:
        smooth = Binary(network, lambda images: smooth_features(network, images), model.readout)
        return strong(smooth, x, y, threat, streams)

    def smooth_features(model: nn.Module, images: Tensor) -> Tensor:
        from unmask.diagnostics.features import features_and_logits, last_linear

        return features_and_logits(model, images, last_linear(model, images[:1]))[0]

    assert binarization(sample, around, **SMALL).evidence["success_rate"] >= 0.9


@pytest.mark.parametrize("threat", [unmask.Linf(0.1), unmask.L2(0.5), unmask.L1(2)], ids=str)
def test_on_a_linear_network_the_one_best_step_always_finds_it(linear, threat):
    """The outer point lies in the ball, and no point of the ball has a higher score than the best step's end."""

    def best(model: Binary, x: Tensor, y: Tensor, threat: unmask.ThreatModel, streams) -> Tensor:
        direction = model.readout.weights.view_as(x)
        return x + threat.steepest_step(direction, x, threat.eps)

    finding = binarization(inner_images(linear, threat=threat), best, **SMALL)
    assert finding.evidence["success_rate"] == 1
    for trial in finding.evidence["per_image"]:
        assert trial["score"] >= trial["outer_score"] - 1e-5 > 0


def test_the_clean_image_is_class_0_with_a_score_of_minus_1(network):
    seen = []

    def look(model: Binary, x: Tensor, y: Tensor, threat: unmask.ThreatModel, streams) -> Tensor:
        seen.append((model(x)[0].tolist(), y.tolist(), len(streams), model.training))
        return x

    finding = binarization(digits(network, 3), look, **SMALL)
    assert finding.status == "fail" and finding.evidence["success_rate"] == 0
    assert all(trial["score"] == pytest.approx(-1, abs=1e-4) for trial in finding.evidence["per_image"])
    for logits, label, streams, training in seen:
        assert logits == pytest.approx([0.5, -0.5], abs=1e-4)
        assert (label, streams, training) == ([0], 1, False)


def test_only_points_of_ball_and_box_count(linear):
    def beyond(model: Binary, x: Tensor, y: Tensor, threat: unmask.ThreatModel, streams) -> Tensor:
        return x + 1.01 * threat.eps * model.readout.weights.view_as(x).sign()

    def broken(model: Binary, x: Tensor, y: Tensor, threat: unmask.ThreatModel, streams) -> Tensor:
        return torch.full_like(x, torch.nan)

    for attack in (beyond, broken):
        evidence = binarization(inner_images(linear), attack, **SMALL).evidence
        assert evidence["success_rate"] == 0
        assert all(trial["score"] is None for trial in evidence["per_image"])


def test_passes_are_counted_exactly(network):
    tally = [0, 0]

    def counted(model, x, y, threat, streams) -> Tensor:
        result = cosine_pgd(model, x, y, threat=threat, steps=40, restarts=3, generator=streams)
        tally[0] += int(result.forwards)
        tally[1] += int(result.backwards)
        return result.x_adv

    finding = binarization(digits(network, 5), counted, inner=150, outer=3, draws=40)
    tries = sum(trial["tries"] for trial in finding.evidence["per_image"])
    looking, judging = 1, 5
    assert finding.evidence["valid"] == 5
    assert finding.forwards == looking + 5 * (150 + 40) + 3 * tries + tally[0] + judging
    assert finding.backwards == tally[1] > 0


def test_a_model_that_is_no_module_lends_its_logits(linear):
    finding = binarization(inner_images(lambda x: linear(x)), usual, inner=20, draws=20)
    assert finding.evidence["features"] == "logits" and finding.evidence["valid"] >= 3
    per_image = finding.evidence["per_image"]
    assert finding.forwards == sum(trial["forwards"] for trial in per_image)


def test_a_study_resumes_from_what_is_kept(network):
    kept: dict[str, str] = {}

    def keep(name, compute):
        if name not in kept:
            kept[name] = json.dumps(compute())
        return json.loads(kept[name])

    def must_not_run(*_: object) -> Tensor:
        raise AssertionError("this image is done")

    told: list[tuple[int, int]] = []
    sample = digits(network, 3)
    first = binarization(sample.first(2), usual, attack_name="pgd", keep=keep, **SMALL)
    again = binarization(
        sample.first(2), must_not_run, attack_name="pgd", keep=keep, watch=lambda *at: told.append(at), **SMALL
    )
    assert again == first == binarization(sample.first(2), usual, attack_name="pgd", **SMALL)
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(AssertionError, match="is done"):
        binarization(sample, must_not_run, attack_name="pgd", keep=keep, **SMALL)
    with pytest.raises(AssertionError, match="is done"):
        binarization(sample.first(2), must_not_run, attack_name="another", keep=keep, **SMALL)


def test_an_images_trial_does_not_depend_on_its_company(network):
    sample = digits(network, 4)
    together = binarization(sample, usual, **SMALL).evidence["per_image"]
    alone = binarization(sample.select(torch.tensor([2])), usual, **SMALL).evidence["per_image"]
    assert alone == together[2:3]


def test_where_chance_succeeds_a_pass_says_nothing_and_a_failure_still_does(linear):
    # The boundary of two inner points, halfway to the outer one, lies in the way of every second draw.
    easy = {"inner": 2, "closeness": 0.01, "draws": 400}
    passed = binarization(inner_images(linear, 10), usual, **easy)
    assert passed.evidence["success_rate"] == 1 and passed.evidence["random_success_rate"] >= 0.9
    assert passed.status == "not_applicable" and "too easy" in passed.summary
    assert binarization(inner_images(linear, 10), idle, **easy).status == "fail"


def test_features_that_separate_nothing_give_no_valid_problem():
    def never(*_: object) -> Tensor:
        raise AssertionError("there is no problem to attack")

    constant = Steered(lambda x: 0 * x.flatten(1)[:, :2]).eval()
    finding = binarization(inner_images(constant), never, inner=20, outer=2, tries=3)
    assert finding.status == "not_applicable" and finding.evidence["valid"] == 0
    assert finding.evidence["success_rate"] is None and finding.evidence["random_success_rate"] is None
    assert finding.forwards == 1 + 4 * (20 + 3 * 2) and finding.backwards == 0


def test_outer_points_are_drawn_anew_until_one_stands_out():
    """Two features of 100 inner points: a further point stands out of their hull only now and then."""
    two = Steered(lambda x: torch.stack([x.flatten(1)[:, :32].mean(1), x.flatten(1)[:, 32:].mean(1)], 1)).eval()
    evidence = binarization(inner_images(two, 8), usual, inner=100, tries=100, draws=20).evidence
    tries = [trial["tries"] for trial in evidence["per_image"]]
    assert evidence["valid"] == 8 and max(tries) > 1


def test_the_model_is_left_as_it_was(network):
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    binarization(digits(network, 2), usual, **SMALL)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(weight.grad is None for weight in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    "wrong",
    [{"inner": 1}, {"outer": 0}, {"draws": 0}, {"tries": 0}, {"radius": 0.0}, {"radius": 1.1}, {"closeness": 1.0}],
)
def test_bad_settings_are_named(linear, wrong):
    with pytest.raises(AuditError, match=next(iter(wrong))):
        binarization(inner_images(linear), usual, **wrong)


@pytest.mark.parametrize("wrong", [lambda *_: None, lambda model, x, *_: x[0]], ids=["nothing", "another shape"])
def test_an_attack_that_returns_no_image_is_named(linear, wrong):
    with pytest.raises(AuditError, match="expected the perturbed image"):
        binarization(inner_images(linear), wrong, **SMALL)


@pytest.mark.real
def test_on_an_adversarially_trained_model_a_strong_attack_finds_more_than_the_usual_one():
    if not available("mnist", None):
        pytest.skip("MNIST is not under $UNMASK_DATA")
    data = unmask.load_data("mnist", "test").first(20)
    sample = Sample.of(load_model("mnist-at").model.eval(), data.pixels(), data.labels, unmask.Linf("0.3"))
    usual_finding = binarization(sample, usual)
    strong_finding = binarization(sample, strong)
    assert strong_finding.status == "ok" and strong_finding.evidence["random_success_rate"] <= 0.1
    assert usual_finding.evidence["success_rate"] < strong_finding.evidence["success_rate"]
