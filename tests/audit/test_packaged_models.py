"""The seeds' main finding, on the packaged models and real images."""

from __future__ import annotations

import pytest

import unmask
from unmask.data import available
from unmask.models import load_model


@pytest.mark.real
@pytest.mark.parametrize("name", ["mnist-clp", "mnist-lsq"])
def test_a_masked_model_keeps_half_under_the_usual_attack_and_a_tenth_in_truth(name):
    if not available("mnist", None):
        pytest.skip("MNIST is not under $UNMASK_DATA")
    data = unmask.load_data("mnist", "test").first(100)
    threat = unmask.Linf("0.3")
    result = unmask.audit(load_model(name).model, data.pixels(), data.labels, threat, ids=data.ids, diagnostics=False)
    assert result.clean_accuracy >= 0.97
    assert result.claimed_accuracy >= 0.5
    assert result.robust_accuracy <= 0.1
    assert result.verdict.label == "masked"
