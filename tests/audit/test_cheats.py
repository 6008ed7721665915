"""Models that fake robustness, and what the audit says of them."""

from __future__ import annotations

import torch
from torch import Tensor

import unmask


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


def test_a_gradient_killer_is_called_masked(network, digits):
    x, y = digits.pixels(), digits.labels
    result = unmask.audit(lambda images: network(_Rounded.apply(images)), x, y, unmask.Linf(0.1), budget="quick")
    finding = next(finding for finding in result.findings if finding.check == "gradients")
    assert finding.status == "fail" and finding.evidence["zero_share"] == 1
    assert result.verdict.label == "masked"
    assert "zero" in " ".join(result.verdict.reasons)


def test_a_threshold_is_looked_through_and_named(network, digits):
    def binary(images: Tensor) -> Tensor:
        return network((images >= 0.5).to(images))

    x, y, threat = digits.pixels(), digits.labels, unmask.Linf(0.2)
    result = unmask.audit(binary, x, y, threat, budget="quick")
    by_queries = unmask.audit(binary, x, y, threat, budget="quick", access="scores", claim=None, diagnostics=False)
    finding = next(finding for finding in result.findings if finding.check == "gradients")
    assert finding.status == "fail" and finding.evidence["blocked_by"] == ["ge"] and "through ge" in finding.summary
    assert result.verdict.label == "masked"
    assert result.robust_accuracy <= by_queries.robust_accuracy < result.clean_accuracy
    found = [*result.run.events["attack"]].count("margin")
    assert found and sum(result.run.events["backwards"]) > 0


def test_a_detached_branch_gets_a_move_of_its_own(network, digits):
    result = unmask.audit(
        lambda images: network(0.01 * images + 0.99 * images.detach()),
        digits.pixels(),
        digits.labels,
        unmask.Linf(0.2),
        budget="quick",
    )
    assert "straight-through" in [entry.attack for entry in result.run.spec.plan]


def test_a_model_without_a_graph_is_audited_and_called_masked(network, digits):
    def remote(images: Tensor) -> Tensor:
        return torch.from_numpy(network(images.detach()).numpy())

    result = unmask.audit(remote, digits.pixels(), digits.labels, unmask.Linf(0.1), budget="quick")
    finding = next(finding for finding in result.findings if finding.check == "gradients")
    assert finding.evidence["missing"] and result.verdict.label == "masked"
    assert all(row == 0 for row in result.run.events["backwards"])


def test_huge_logits_change_no_measured_figure(network, digits):
    x, y, threat = digits.pixels(), digits.labels, unmask.Linf(0.1)
    honest = unmask.audit(network, x, y, threat, budget="quick", diagnostics=False)
    cheat = unmask.audit(lambda images: 2000 * network(images), x, y, threat, budget="quick")
    assert abs(honest.robust_accuracy - cheat.robust_accuracy) <= 2 / len(x)
    finding = next(finding for finding in cheat.findings if finding.check == "gradients")
    assert finding.status == "warn" and "underflow" in finding.summary


def test_a_randomised_model_is_inconclusive(network, digits):
    generator = torch.Generator().manual_seed(0)

    def noisy(images: Tensor) -> Tensor:
        return network(images + 0.2 * torch.randn(images.shape, generator=generator))

    result = unmask.audit(noisy, digits.pixels(), digits.labels, unmask.Linf(0.1), budget="quick")
    assert result.verdict.label == "inconclusive" and "randomised" in result.verdict.reasons[0]


def test_an_honest_weak_model_is_not_robust(network, digits):
    result = unmask.audit(network, digits.pixels(), digits.labels, unmask.Linf(0.3), budget="quick")
    assert result.verdict.label == "not robust"
    assert {finding.check: finding.status for finding in result.findings}["eps_curve"] == "ok"


def test_a_constant_model_is_no_better_than_its_clean_accuracy(digits):
    result = unmask.audit(
        lambda images: torch.zeros(len(images), 10), digits.pixels(), digits.labels, unmask.Linf(0.1), budget="quick"
    )
    assert result.robust_accuracy == result.clean_accuracy <= 0.3
    assert result.verdict.label != "robust"
