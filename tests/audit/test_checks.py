"""How many images each check of an audit looks at: all together stay within a share of the audit's own cost."""

from __future__ import annotations

import pytest
import torch

import unmask
from unmask.audit.checks import LEAST, SHARE, Check, allotted
from unmask.diagnostics import Finding, Sample


def check(per_image: int, most: int, images: int = 100) -> Check:
    x = torch.zeros(images, 1, 2, 2)
    sample = Sample.of(lambda x: x.flatten(1), x, torch.zeros(images, dtype=torch.int64), unmask.Linf(0.1))
    return Check(lambda these: Finding("none", "ok", ""), sample, per_image, most)


def test_all_is_looked_at_where_there_is_room():
    assert allotted([check(10, 30), check(100, 5)], 800) == [30, 5]


def test_a_small_sample_limits_what_is_wanted():
    assert allotted([check(10, 30, images=4), check(100, 5, images=0)], 800) == [4, 0]


@pytest.mark.parametrize("allowance", [60, 150, 333, 799])
def test_what_there_is_is_shared_out(allowance):
    checks = [check(10, 30), check(50, 10)]
    counts = allotted(checks, allowance)
    assert min(counts) >= 1 and 10 * counts[0] + 50 * counts[1] <= allowance
    assert counts[0] >= counts[1]


def test_the_dearest_are_left_out_first():
    assert allotted([check(10, 30), check(50, 10), check(70, 10)], 65) == [1, 1, 0]
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
