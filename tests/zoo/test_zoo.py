"""Every planted cheat is caught, by a finding that names its cause; honest networks are never called masked."""

from __future__ import annotations

import pytest
import torch
from cheats import CHEATS, TRAINED_CHEATS, distilling, winners_take_all
from torch import nn

import unmask
from unmask.errors import ModelError
from unmask.models import build
from unmask.training import Optimizer, PgdAdversary, Training, adversarial_training, fit, plain

THREAT, N = unmask.Linf(0.15), 120


@pytest.fixture(scope="module")
def digits() -> unmask.DataSet:
    return unmask.load_data("digits", "test").first(N)


def trained(model: nn.Module, training: Training) -> nn.Module:
    fit(model, unmask.load_data("digits", "train"), training, seed=0)
    return model.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build("digits-cnn", generator=torch.Generator().manual_seed(0))
    return trained(model, Training(plain(), epochs=8, batch_size=64)).requires_grad_(False)


def audited(model, digits: unmask.DataSet) -> unmask.AuditResult:
    return unmask.audit(model, digits.pixels(), digits.labels, THREAT, budget="quick")


def said(result: unmask.AuditResult) -> dict[str, str]:
    return {
        finding.check: f"{finding.summary} {finding.next_step}".lower()
        for finding in result.findings
        if finding.status in ("warn", "fail")
    }


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught_by_its_cause(name, network, digits):
    cheat = CHEATS[name]
    result = audited(cheat.plant(network), digits)
    found = said(result)
    assert any(word in found.get(check, "") for check in cheat.causes for word in cheat.words), found
    assert result.verdict.label != "robust" and all(result.verdict.reasons)
    assert result.verdict.change


@pytest.mark.parametrize("name", TRAINED_CHEATS)
def test_a_trained_cheat_is_caught_by_its_cause(name, digits):
    torch.manual_seed(0)
    model = winners_take_all(8) if name == "winners_take_all" else build("digits-cnn", generator=torch.Generator())
    training = Training(plain(), Optimizer("adam", 3e-3), epochs=8, batch_size=64)
    trained(distilling(model) if name == "distilled" else model, training)
    causes, words = TRAINED_CHEATS[name]
    result = audited(model, digits)
    found = said(result)
    assert any(word in found.get(check, "") for check in causes for word in words), found
    assert result.verdict.label != "robust"


def test_probabilities_are_refused(network, digits):
    with pytest.raises(ModelError, match="probabilities"):
        audited(lambda x: network(x).softmax(1), digits)


@pytest.mark.parametrize("hardened", [False, True])
def test_an_honest_network_is_not_called_masked(hardened, digits):
    objective = adversarial_training(PgdAdversary(THREAT, 5, 0.06)) if hardened else plain()
    model = build("digits-cnn", generator=torch.Generator().manual_seed(1))
    result = audited(trained(model, Training(objective, epochs=10, batch_size=64)), digits)
    assert result.verdict.label in ("robust", "not robust")
    failed = [finding.check for finding in result.findings if finding.status == "fail"]
    assert not failed
