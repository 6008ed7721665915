"""The audit's checks: each on a model made to trip it, and on an honest one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

import unmask
from unmask.diagnostics import (
    Sample,
    batch_dependence,
    determinism,
    gradients,
    inner_gradients,
    logit_scale,
    query_breaks,
    random_sampling,
    refusals,
    roughness,
    step_size,
)

THREAT = unmask.Linf(0.1)


class Counting(nn.Module):
    def __init__(self, model) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda slope: setattr(self, "backwards", self.backwards + len(slope)))
        return logits


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Softplus(), nn.Linear(32, 3))
    return model.eval().requires_grad_(False)


def sample(model, n: int = 8, threat: unmask.ThreatModel = THREAT) -> Sample:
    x = torch.rand((n, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    return Sample.of(model, x, network()(x).argmax(1), threat)


CHECKS = {
    "determinism": determinism,
    "batch_dependence": batch_dependence,
    "gradients": gradients,
    "roughness": lambda these: roughness(these, (these.x + 0.05).clamp(max=1)),
    "random_sampling": lambda these: random_sampling(these, "pgd-40"),
    "step_size": lambda these: step_size(these, "pgd-40"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_an_honest_network_passes_and_its_passes_are_counted(name):
    counted = Counting(network())
    finding = CHECKS[name](sample(lambda x: counted(x), threat=unmask.Linf(0.002)))
    assert finding.status == "ok"
    assert finding.forwards == counted.forwards
    assert finding.backwards >= counted.backwards
    if name != "step_size":
        assert finding.backwards == counted.backwards


def test_noise_is_named():
    base = network()
    noisy = sample(lambda x: base(x + 0.1 * torch.rand_like(x)))
    finding = determinism(noisy)
    assert finding.status == "fail" and "randomised" in finding.summary and finding.next_step
    assert batch_dependence(noisy).status == "ok"


def test_a_function_of_the_batch_is_named():
    base = network()
    finding = batch_dependence(sample(lambda x: base(x) - base(x).mean(0)))
    assert finding.status == "fail" and "beside" in finding.summary


class TestGradients:
    def test_zero(self):
        base = network()
        finding = gradients(sample(lambda x: base((4 * x).round() / 4)))
        assert finding.status == "fail" and finding.evidence["zero_share"] == 1 and "zero" in finding.summary

    def test_missing(self):
        base = network()
        finding = gradients(sample(lambda x: base(x.detach())))
        assert finding.evidence["missing"] and finding.status == "fail" and finding.backwards == 0

    def test_underflow_is_told_from_the_same_in_float64(self):
        class Far(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.base = network()

            def forward(self, x: Tensor) -> Tensor:
                return 150 * self.base(x) / self.base(x).std(1, keepdim=True).detach()

        finding = gradients(sample(Far()))
        assert finding.status == "warn" and "underflows" in finding.summary
        assert finding.evidence["zero_share_cross_entropy"] > finding.evidence["zero_share_cross_entropy_float64"]
        assert finding.evidence["zero_share"] == 0
        assert finding.forwards == 3 * 8 and finding.backwards == 3 * 8

    def test_not_finite(self):
        base = network()
        finding = gradients(sample(lambda x: base((x - x.detach()).sqrt() + x.detach())))
        assert finding.status == "fail" and "not finite" in finding.summary

    def test_a_module_is_left_as_it_is(self):
        """Its copies are itself, as those of modules that hold what cannot be copied."""

        class Shared(nn.Sequential):
            def __deepcopy__(self, memo) -> nn.Module:
                return self

        model = Shared(*network()).eval()
        finding = gradients(sample(model))
        assert finding.evidence["zero_share_cross_entropy_float64"] == 0 and finding.forwards == 3 * 8
        assert {weights.dtype for weights in model.parameters()} == {torch.float32}

    def test_a_gradient_in_many_pixels_does_not_explode_within_a_small_l1_ball(self):
        def model(x: Tensor) -> Tensor:
            """Its margin is 1e-3, and a step of eps in L1, whichever pixels it takes, changes it by 200."""
            gap = 200 * (x - x.detach()).flatten(1).sum(1, keepdim=True) + 1e-3
            return torch.cat([gap, torch.zeros_like(gap)], 1)

        x, y = torch.full((4, 1, 100, 100), 0.5), torch.zeros(4, dtype=torch.int64)
        finding = gradients(Sample.of(model, x, y, unmask.L1(1)))
        assert finding.evidence["exploding_share"] == 0
        assert gradients(Sample.of(model, x, y, unmask.Linf(0.5))).evidence["exploding_share"] == 1

    def test_exploding(self):
        base = network()
        finding = gradients(sample(lambda x: base(x + 1e-9 * (1e16 * x).sin())))
        assert finding.status == "warn" and "explodes" in finding.summary

    def test_a_part_that_is_lost_is_named(self):
        base = network()
        finding = gradients(sample(base), blocked=("detach",))
        assert (
            finding.status == "warn" and "lost in detach" in finding.summary and "straight through" in finding.next_step
        )


class TestInnerGradients:
    def test_an_honest_network(self):
        before = torch.autograd.Variable._execution_engine
        assert inner_gradients(sample(network())).status == "ok"
        assert torch.autograd.Variable._execution_engine is before

    @pytest.mark.parametrize("backward", [False, True])
    def test_optimising_inside(self, backward):
        base = network()

        def purified(x: Tensor) -> Tensor:
            here = x.detach().requires_grad_()
            with torch.enable_grad():
                confidence = base(here).log_softmax(1).amax(1).sum()
            if backward:
                confidence.backward()
                return base(here.detach() + here.grad)
            return base(here.detach() + grad(confidence, here)[0])

        finding = inner_gradients(sample(purified, 2))
        assert finding.status == "warn" and finding.evidence["backward_passes"] == 1 and finding.forwards == 2


class TestRoughness:
    def test_a_linear_model_is_smooth_and_linear(self):
        weight = torch.randn((3, 16), generator=torch.Generator().manual_seed(0))
        these = sample(lambda x: x.flatten(1) @ weight.T * torch.tensor([1.0, 1.0, 0.0]) - torch.tensor([0, 0, 1e3]))
        these = replace(these, y=torch.zeros_like(these.y))
        finding = roughness(these, these.x * 0.9)
        assert finding.evidence["nearby_cosine"] == pytest.approx(1, abs=1e-5)
        assert finding.evidence["path_cosine"] == pytest.approx(1, abs=1e-5)
        assert finding.evidence["nonlinearity"] == pytest.approx(0, abs=1e-4)

    def test_a_ripple_is_rough(self):
        base = network()
        wave = torch.randn((16, 3), generator=torch.Generator().manual_seed(0))
        these = sample(lambda x: base(x) + 0.05 * (5e3 * x.flatten(1) @ wave).sin())
        finding = roughness(these, these.x)
        assert finding.status in ("warn", "fail") and "rough" in finding.summary

    def test_a_gradient_that_points_elsewhere(self):
        def bent(x: Tensor) -> Tensor:
            """The margin falls from x = 0.2 to 0.25, and rises beyond."""
            height = (x.flatten(1)[:, :1] - 0.25) ** 2
            return torch.cat([-height, torch.zeros_like(height)], 1)

        x = torch.full((4, 1, 4, 4), 0.2)
        these = Sample.of(bent, x, torch.zeros(4, dtype=torch.int64), unmask.Linf(0.5))
        finding = roughness(these, x + 0.4)
        assert finding.status == "warn" and "does not show the way" in finding.summary

    def test_nothing_to_compare(self):
        finding = roughness(sample(lambda x: network()(x.detach())), sample(network()).x)
        assert finding.status == "not_applicable" and finding.backwards == 0

    def test_zero_gradients_are_paid_for(self):
        counted = Counting(lambda x: network()(x.clamp(min=2)))
        finding = roughness(sample(lambda x: counted(x)), sample(network()).x)
        assert finding.status == "not_applicable"
        assert finding.backwards == counted.backwards == 6 * 8


def test_chance_that_beats_an_attack_is_named():
    """The answer changes at half of all corners, and is flat at the image."""

    def model(x: Tensor) -> Tensor:
        odd = (x.flatten(1)[:, 0] > 0.5).float()
        return torch.stack([1 - 2 * odd, torch.zeros_like(odd)], 1)

    x, y = torch.full((10, 1, 4, 4), 0.5), torch.zeros(10, dtype=torch.int64)
    finding = random_sampling(Sample.of(model, x, y, THREAT), "pgd-40")
    assert finding.status == "fail" and finding.evidence["broken"] > 5 and "pgd-40" in finding.next_step


def test_large_steps_that_beat_small_ones_are_named():
    weight = torch.ones((16, 1))

    def model(x: Tensor) -> Tensor:
        gap = x.flatten(1) @ weight / 16 - 0.55
        return torch.cat([-gap, gap], 1)

    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    finding = step_size(Sample.of(model, x, y, THREAT), "fgsm")
    assert finding.status == "warn" and finding.evidence["broken"] == 4


@pytest.mark.parametrize(
    ("gap", "status", "word"), [(12.0, "ok", ""), (5e3, "warn", "saturates"), (1e-5, "warn", "drown")]
)
def test_logit_scale(gap, status, word):
    finding = logit_scale([-gap, -gap, -1.2 * gap])
    assert finding.status == status and word in finding.summary


class TestRefusals:
    LABELS = tuple(range(3)) * 20

    def test_a_class_of_no_image_that_takes_most_breaks(self):
        finding = refusals([3] * 15 + [0] * 5, self.LABELS)
        assert finding.status == "warn" and finding.evidence["class"] == 3 and "refuses" in finding.summary

    @pytest.mark.parametrize(
        ("predicted", "labels"),
        [([2] * 20, LABELS), ([3] * 5 + [0] * 45, LABELS), ([3] * 20, (0, 1, 2)), ([3] * 3, LABELS), ([], LABELS)],
        ids=["known", "seldom", "few images", "few breaks", "none"],
    )
    def test_otherwise_it_is_an_error_like_others(self, predicted, labels):
        assert refusals(predicted, labels).status == "ok"


@pytest.mark.parametrize(
    ("broken", "withstood", "status"),
    [(0, 0, "ok"), (4, 8, "ok"), (5, 100, "ok"), (10, 100, "warn"), (30, 100, "fail")],
)
def test_query_breaks(broken, withstood, status):
    assert query_breaks(broken, withstood).status == status


def test_a_sample_is_cut_by_its_ids():
    these = Sample.of(network(), torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64), THREAT, ids=[7, 3, 5])
    assert these.first(2).ids == (7, 3) and len(these.first(9)) == 3
    alone = Sample.of(these.model, these.x[1:2], these.y[1:2], THREAT, ids=[3])
    assert torch.equal(these.streams.uniform((4,))[1], alone.streams.uniform((4,))[0])
