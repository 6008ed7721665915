"""The indicators of attack failure: models made to trip each, and honest ones that trip none."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unmask
from unmask.diagnostics.indicators import indicators
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError
from unmask.losses import margin
from unmask.models import build
from unmask.training import Training, fit, plain

THREAT = unmask.Linf(0.1)
NAMES = {
    "unavailable_gradients",
    "unstable_predictions",
    "silent_success",
    "incomplete_optimisation",
    "unconstrained_failure",
}


class Zeroed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


class Counted:
    """A model that counts the example passes made through it."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.forwards, self.backwards = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._note)
        return logits

    def _note(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def brightness(x: Tensor, gap: float) -> Tensor:
    """Logits that say 0 until all pixels are `gap` brighter than 0.5 on average."""
    score = x.flatten(1).mean(1) - 0.5 - gap
    return torch.stack([-score, score], 1)


def narrow(x: Tensor) -> Tensor:
    """Logits that say 1 only where the mean pixel is in (0.545, 0.575)."""
    score = 0.015 - (x.flatten(1).mean(1) - 0.56).abs()
    return torch.stack([-score, score], 1)


def grey(model: Callable[[Tensor], Tensor], n: int = 4, threat: unmask.ThreatModel = THREAT) -> Sample:
    return Sample.of(model, torch.full((n, 1, 5, 5), 0.5), torch.zeros(n, dtype=torch.int64), threat)


def tripped(finding) -> dict[str, float]:
    return {name: share for name, share in finding.evidence["indicators"].items() if share}


@pytest.mark.parametrize("threat", [unmask.Linf(0.1), unmask.L2(0.5), unmask.L1(2.5)], ids=str)
@pytest.mark.parametrize("gap", [0.05, 0.2], ids=["broken", "robust"])
def test_an_honest_linear_model_trips_nothing(threat, gap):
    sample = grey(lambda x: brightness(x, gap), threat=threat)
    finding = indicators(sample)
    assert finding.status == "ok" and tripped(finding) == {} and finding.next_step == ""
    assert set(finding.evidence["indicators"]) == NAMES | {"transfer_failure"}
    assert finding.evidence["indicators"]["transfer_failure"] is None
    assert all(part["success"] == (gap < 0.1) for part in finding.evidence["per_image"])
    json.dumps(finding.evidence, allow_nan=False)


def test_an_honest_network_trips_nothing():
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0))
    trained = fit(model, unmask.load_data("digits", "train"), Training(plain(), epochs=3, batch_size=64), seed=0)
    data = unmask.load_data("digits", "test").first(8)
    trained.eval().zero_grad()
    finding = indicators(Sample.of(trained, data.pixels(), data.labels, unmask.Linf(0.05)))
    assert finding.status == "ok" and tripped(finding) == {}
    assert all(weight.grad is None for weight in trained.parameters())


def test_a_zero_gradient_is_unavailable_and_leads_nowhere():
    finding = indicators(grey(lambda x: brightness(Zeroed.apply(x), 0.05)))
    assert finding.status == "fail"
    assert tripped(finding) == {"unavailable_gradients": 1, "unconstrained_failure": 1}
    assert "no gradient on 100%" in finding.summary and "without gradients" in finding.next_step


def test_a_model_without_a_graph_costs_no_backwards():
    finding = indicators(grey(lambda x: brightness(x.detach(), 0.05)))
    assert finding.status == "fail" and tripped(finding)["unavailable_gradients"] == 1
    assert finding.backwards == 0


def test_an_underflowing_cross_entropy_is_told_from_a_model_without_gradients():
    sample = grey(lambda x: 1e4 * brightness(x, 0.05))
    assert tripped(indicators(sample)) == {"unavailable_gradients": 1, "unconstrained_failure": 1}
    assert tripped(indicators(sample, loss=margin)) == {}


def test_gradients_that_point_the_wrong_way_fail_without_a_bound():
    finding = indicators(grey(lambda x: brightness(Reversed.apply(x), 0.05)))
    assert finding.status == "fail" and tripped(finding) == {"unconstrained_failure": 1}
    assert "mislead" in finding.next_step


def test_noise_in_the_answers_makes_them_unstable():
    def noisy(x: Tensor) -> Tensor:
        noise = 0.02 * (1e5 * x.detach()).sum((1, 2, 3)).sin()
        return brightness(x, 0.05) + torch.stack([noise, -noise], 1)

    finding = indicators(grey(noisy), draws=40)
    assert finding.status == "warn" and tripped(finding) == {"unstable_predictions": 1}
    assert all(0.1 < part["variability"] <= 1 for part in finding.evidence["per_image"])


def test_variability_is_the_mean_relative_change_of_the_margin():
    sample = grey(lambda x: brightness(x, 0.05), n=1)
    draws = 400
    (part,) = indicators(sample, draws=draws).evidence["per_image"]
    # The mean of 25 uniform draws from (-0.01, 0.01), nearly normal, over the clean margin's 0.05.
    expected = 0.01 / 3**0.5 / 5 * (2 / torch.pi) ** 0.5 / 0.05
    assert abs(part["variability"] - expected) < 0.1 * expected


@pytest.mark.parametrize(("steps", "share"), [(20, 1), (21, 0)], ids=["ends outside", "ends inside"])
def test_an_adversarial_iterate_that_the_last_one_loses_is_a_silent_success(steps, share):
    # From 0.5 the iterates go 0.55, 0.6, 0.55, ...: every second one is adversarial.
    finding = indicators(grey(narrow), steps=steps, step_size=0.05)
    assert finding.status == ("warn" if share else "ok")
    assert tripped(finding) == ({"silent_success": 1} if share else {})
    assert all(part["success"] for part in finding.evidence["per_image"])


def test_steps_too_small_to_arrive_are_incomplete():
    sample = grey(lambda x: brightness(x, 0.2))
    finding = indicators(sample, step_size=0.001)
    assert finding.status == "warn" and tripped(finding) == {"incomplete_optimisation": 1}
    assert all(abs(part["late_progress"] - 0.25) < 1e-3 for part in finding.evidence["per_image"])
    assert "more steps" in finding.next_step


def test_a_run_that_succeeded_is_not_incomplete():
    finding = indicators(grey(lambda x: brightness(x, 0.01)), step_size=0.001)
    assert tripped(finding) == {} and finding.evidence["per_image"][0]["late_progress"] > 0.1


def test_one_image_without_a_gradient_is_worth_a_warning():
    sample = grey(lambda x: brightness(torch.where(x[:, :, :1, :1] > 0.55, x.detach(), x), 0.05))
    sample.x[0, 0, 0, 0] = 0.7
    finding = indicators(sample)
    assert finding.status == "warn"
    assert tripped(finding) == {"unavailable_gradients": 0.25, "unconstrained_failure": 0.25}
    assert [bool(part["indicators"]) for part in finding.evidence["per_image"]] == [True, False, False, False]


@pytest.mark.parametrize("gap", [0.05, 0.2], ids=["broken", "robust"])
def test_passes_are_counted_exactly(gap):
    counted = Counted(lambda x: brightness(x, gap))
    finding = indicators(grey(counted, n=3), steps=10, draws=7)
    assert (finding.forwards, finding.backwards) == (counted.forwards, counted.backwards)
    without_unbounded = 3 * (10 + 2 + 7)
    assert without_unbounded < finding.forwards <= without_unbounded + 3 * 11


def test_an_images_figures_do_not_depend_on_its_company():
    data = unmask.load_data("digits", "test").first(4)
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0)).eval()
    sample = Sample.of(model, data.pixels(), data.labels, THREAT)
    alone = indicators(sample.select(torch.tensor([2]))).evidence["per_image"][0]
    together = indicators(sample).evidence["per_image"][2]
    assert alone["indicators"] == together["indicators"] and alone["id"] == together["id"] == 2
    assert abs(alone["variability"] - together["variability"]) < 1e-4


def test_no_images_are_not_applicable():
    assert indicators(grey(narrow, n=0)).status == "not_applicable"


@pytest.mark.parametrize("wrong", [{"steps": 3}, {"draws": 0}])
def test_bad_settings_are_named(wrong):
    with pytest.raises(AuditError, match=r"expected at least 4 steps and 1 draw"):
        indicators(grey(narrow), **wrong)
