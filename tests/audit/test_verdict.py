"""The verdict's rules, one by one."""

from __future__ import annotations

import pytest

from unmask.audit import decide
from unmask.diagnostics import Finding, claim_gap
from unmask.ledger.queries import wilson_interval

FAILED = {
    name: Finding(name, "warn" if name == "roughness" else "fail", f"{name} speaks up")
    for name in ("determinism", "gradients", "eps_curve", "query_breaks", "roughness")
}


def gap(claimed: float, measured: float, n: int = 1000) -> Finding:
    return claim_gap(claimed, measured, wilson_interval(round((claimed - measured) * n), n), "pgd-40")


def test_nothing_left_of_nothing_is_not_robust():
    assert decide(0.0, 0.0, 0.0, 1000, [gap(0.0, 0.0)]).label == "not robust"


def test_without_an_attack_nothing_is_concluded():
    verdict = decide(0.99, None, 0.99, 1000, [], attacked=False)
    assert verdict.label == "inconclusive" and "No attack" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("claimed", "measured", "n", "findings", "unfinished", "label"),
    [
        (0.95, 0.92, 1000, [], 0, "robust"),
        (None, 0.92, 1000, [], 0, "robust"),
        (0.62, 0.04, 1000, [], 0, "masked"),
        (0.62, 0.40, 1000, [], 0, "inconclusive"),
        (0.62, 0.40, 1000, ["roughness"], 0, "masked"),
        (0.62, 0.14, 1000, [], 0, "masked"),
        (0.62, 0.17, 1000, [], 0, "not robust"),
        (0.45, 0.05, 1000, [], 0, "not robust"),
        (0.45, 0.05, 1000, ["roughness"], 0, "masked"),
        (0.95, 0.92, 1000, ["roughness"], 0, "robust"),
        (0.95, 0.92, 1000, ["query_breaks"], 0, "masked"),
        (0.62, 0.43, 1000, [], 0, "robust"),
        (0.95, 0.88, 1000, [], 0, "robust"),
        (0.30, 0.19, 1000, [], 0, "not robust"),
        (0.30, 0.19, 50, [], 0, "not robust"),
        (0.08, 0.00, 1000, [], 0, "not robust"),
        (0.20, 0.02, 1000, [], 0, "not robust"),
        (0.95, 0.95, 1000, ["gradients"], 0, "masked"),
        (0.95, 0.92, 1000, ["eps_curve"], 0, "inconclusive"),
        (0.95, 0.92, 1000, ["determinism"], 0, "inconclusive"),
        (0.62, 0.04, 1000, ["determinism"], 0, "inconclusive"),
        (0.95, 0.92, 1000, [], 3, "inconclusive"),
        (0.95, 0.92, 12, [], 0, "inconclusive"),
    ],
)
def test_rules(claimed, measured, n, findings, unfinished, label):
    found = [FAILED[name] for name in findings] + ([gap(claimed, measured, n)] if claimed is not None else [])
    verdict = decide(0.99, claimed, measured, n, found, unfinished)
    assert verdict.label == label and all(verdict.reasons)
