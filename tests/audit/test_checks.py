"""How many images each check of an audit looks at: all together stay within a share of the audit's own cost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unmask
from unmask.audit.checks import LEAST, SHARE, Check, _after_gradients, allotted
from unmask.diagnostics import Finding, Sample


def check(per_image: int, most: int, images: int = 100) -> Check:
    x = torch.zeros(images, 1, 2, 2)
    sample = Sample.of(lambda x: x.flatten(1), x, torch.zeros(images, dtype=torch.int64), unmask.Linf(0.1))
    return Check("none", lambda these: Finding("none", "ok", ""), sample, per_image, most)


def test_all_is_looked_at_where_there_is_room():
    assert allotted([check(10, 30), check(100, 5)], 800) == [30, 5]


def test_a_small_sample_limits_what_is_wanted():
    assert allotted([check(10, 30, images=4), check(100, 5, images=0)], 800) == [4, 0]


@pytest.mark.parametrize("allowance", [60, 150, 333, 799, 5_000])
def test_no_check_spends_more_than_another_that_wants_more(allowance):
    checks = [check(2, 30), check(10, 30), check(50, 10)]
    counts = allotted(checks, allowance)
    spent = [n * one.per_image for n, one in zip(counts, checks, strict=True)]
    assert sum(spent) <= allowance
    for one, n, cost in zip(checks, counts, spent, strict=True):
        assert n == one.most or cost + one.per_image > max(spent)


def test_cheap_checks_look_at_all_and_the_dearest_at_few_or_none():
    assert allotted([check(2, 30), check(50, 10), check(400, 3)], 300) == [30, 4, 0]
    assert allotted([check(10, 30), check(50, 10)], 5) == [0, 0]


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("claim", ["pgd-40", None])
@pytest.mark.parametrize("n", [12, 64])
def test_checks_cost_a_bounded_share_of_the_audit(network, digits, eps, claim, n):
    few = digits.first(n)
    result = unmask.audit(network, few.pixels(), few.labels, unmask.Linf(eps), budget="quick", claim=claim)
    checks = sum(finding.forwards + finding.backwards for finding in result.findings)
    attacks = sum(result.run.events["forwards"]) + sum(result.run.events["backwards"])
    assert result.forwards + result.backwards == attacks + checks
    assert checks <= max(LEAST, SHARE * attacks)
    made = {finding.check for finding in result.findings}
    assert {"gradients", "determinism", "batch_dependence", "eps_curve", "roughness", "eight_bit"} <= made
    assert ("claim_gap" in made) == (claim is not None)


def test_a_check_that_the_model_lets_nobody_make_is_a_finding(network, digits):
    def alone(x: torch.Tensor) -> torch.Tensor:
        if len(x) == 1:
            raise RuntimeError("one image is no batch")
        return network(x)

    few = digits.first(24)
    result = unmask.audit(
        alone, few.pixels(), few.labels, unmask.Linf(0.02), budget="quick", access="scores", claim=None
    )
    unmade = [finding for finding in result.findings if finding.check == "unmade"]
    assert [finding.evidence for finding in unmade] == [{"check": "batch_dependence"}]
    assert unmade[0].status == "fail" and "one image is no batch" in unmade[0].summary and unmade[0].next_step
    assert result.verdict.label == "inconclusive"


def test_a_ball_of_no_size_is_audited(network, digits):
    few = digits.first(24)
    result = unmask.audit(network, few.pixels(), few.labels, unmask.Linf(0), budget="quick")
    assert result.robust_accuracy == result.clean_accuracy
    assert "unmade" not in {finding.check for finding in result.findings}


def test_breaks_by_queries_are_counted_among_images_that_queries_saw():
    """Of four images that pgd leaves, the margin breaks two; queries see the others and break one."""
    rows = [(0, "clean", "survived"), (1, "clean", "survived"), (2, "clean", "survived"), (3, "clean", "survived")]
    rows += [(example, "pgd-40", "survived") for example in range(4)]
    rows += [(0, "margin", "broken"), (1, "margin", "broken"), (2, "margin", "survived"), (3, "margin", "survived")]
    rows += [(2, "square", "broken"), (3, "square", "survived")]
    events = np.array(rows, dtype=[("id", int), ("attack", object), ("status", object)])
    attacks = [SimpleNamespace(name=name, gradients=name != "square") for name in ("pgd-40", "margin", "square")]
    assert _after_gradients(SimpleNamespace(events=events), attacks) == (1, 2)
