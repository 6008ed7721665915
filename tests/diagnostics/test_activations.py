"""Which features a network uses, on networks whose silent units are known, and how its features are had."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask import Linf
from unmask.diagnostics.activations import activations
from unmask.diagnostics.features import features_and_logits, last_linear
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError, DataError, ModelError
from unmask.models import build

SHAPE = (1, 2, 3)
SILENT = {1, 4, 5}


class Gate(nn.Module):
    """Scales channels by a small network of their means, and gives the logits by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(1, 1), nn.Conv2d(1, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(x.mean((2, 3)))[:, :, None, None]
        logits: Tensor = self.head(scale * x).mean((2, 3))
        return logits


class Twice(nn.Module):
    """Registers its layers in another order than it runs them, one of them twice, and calls the head by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.unused = nn.Linear(6, 3), nn.Linear(6, 6), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(input=self.body(self.body(x.flatten(1))))
        return logits


def network() -> nn.Sequential:
    """Return a network whose units SILENT stay at zero behind the ReLU, whatever the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[1].bias.fill_(2.0)
        model[1].bias[list(SILENT)] = -100.0
    return model


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def sampled(model: Callable[[Tensor], Tensor], n: int = 20) -> Sample:
    return Sample.of(model, images(n), torch.zeros(n, dtype=torch.int64), Linf(0.1))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_hooks_with_kwargs) for module in model.modules())


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_silent_units_are_counted_and_sums_are_exact(batch_size: int) -> None:
    model = network()
    finding = activations(sampled(model), batch_size=batch_size)
    penultimate, logits = finding.evidence["layers"]
    with torch.no_grad():
        features, outputs = model[:3](images(20)).abs().double().sum(0), model(images(20)).abs().double().sum(0)
    assert penultimate["name"] == "penultimate" and penultimate["sums"] == pytest.approx(features.tolist())
    assert logits["name"] == "logits" and logits["sums"] == pytest.approx(outputs.tolist())
    assert {unit for unit, total in enumerate(penultimate["sums"]) if total == 0} == SILENT
    assert penultimate["silent"] == 3 and logits["silent"] == 0
    assert finding.status == "ok" and "3 of 8 units" in finding.summary and finding.next_step
    json.dumps(finding.evidence, allow_nan=False)


def test_a_network_with_all_units_at_work_needs_no_advice() -> None:
    model = network()
    with torch.no_grad():
        model[1].bias.fill_(2.0)
    finding = activations(sampled(model))
    assert finding.evidence["layers"][0]["silent"] == 0 and not finding.next_step


def test_a_unit_is_silent_up_to_a_millionth_of_the_loudest() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    x = torch.tensor([1.0, 2e-6, 5e-7, 0.0]).view(1, 1, 2, 2)
    sample = Sample.of(model, x, torch.zeros(1, dtype=torch.int64), Linf(0.1))
    assert activations(sample).evidence["layers"][0]["silent"] == 2
    black = Sample.of(model, 0 * x, sample.y, Linf(0.1))
    assert [layer["silent"] for layer in activations(black).evidence["layers"]] == [4, 2]


def test_every_pass_is_counted_and_the_model_is_left_as_it_was() -> None:
    model, seen = network(), []
    handle = model[0].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    finding = activations(sampled(model), batch_size=8)
    assert (finding.forwards, finding.backwards) == (sum(seen), 0) == (21, 0)
    handle.remove()
    assert hooks(model) == 0
    assert all(weights.grad is None and weights.requires_grad for weights in model.parameters())


@pytest.mark.parametrize(("model", "forwards"), [(lambda x: x.flatten(1)[:, :3], 0), (Gate().eval(), 1)])
def test_a_model_without_such_a_layer_has_no_features_to_see(model: Callable[..., Any], forwards: int) -> None:
    finding = activations(sampled(model))
    assert finding.status == "not_applicable" and "cannot be seen" in finding.summary and finding.next_step
    assert finding.forwards == forwards


def test_kept_sums_are_not_computed_again() -> None:
    model, kept = network(), {}

    def keep(name: str, compute: Callable[[], Any]) -> Any:
        if name not in kept:
            kept[name] = json.dumps(compute(), allow_nan=False)
        return json.loads(kept[name])

    first = activations(sampled(model), keep=keep)
    with torch.no_grad():
        model[3].weight.zero_()
    assert activations(sampled(model), keep=keep) == first != activations(sampled(model))


def test_unusable_input_is_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        activations(sampled(network()).first(0))
    with pytest.raises(AuditError, match="batch_size is -1"):
        activations(sampled(network()), batch_size=-1)


def test_the_layer_that_runs_last_is_found_whatever_the_order_of_registration() -> None:
    model = Twice().eval()
    x = images(5)
    assert last_linear(model, x) is model.head
    features, logits = features_and_logits(model, x, model.head)
    assert torch.equal(features, model.body(model.body(x.flatten(1)))) and torch.equal(logits, model(x))
    assert hooks(model) == 0


def test_the_layer_is_found_within_wrappers_and_packaged_networks() -> None:
    inner = build("digits-cnn", generator=torch.Generator().manual_seed(0)).eval()
    wrapped = nn.Sequential(unmask.models.Normalize((0.5,), (0.5,)), inner)
    assert last_linear(wrapped, torch.rand(1, 1, 8, 8)) is inner.head


def test_features_and_logits_can_be_differentiated_by_the_image() -> None:
    model, x = network(), images(4).requires_grad_()
    features, logits = features_and_logits(model, x, model[3])
    (by_feature,) = torch.autograd.grad(features[:, 0].sum(), x, retain_graph=True)
    (by_logit,) = torch.autograd.grad(logits[:, 2].sum(), x)
    first, last = model[1].weight, model[3].weight
    awake = (features > 0).float()
    torch.testing.assert_close(by_feature.flatten(1), awake[:, :1] * first[0])
    torch.testing.assert_close(by_logit.flatten(1), (awake * last[2]) @ first)


def test_a_layer_that_does_not_run_is_refused() -> None:
    model = Twice().eval()
    with pytest.raises(ModelError, match="did not run on 4 images"):
        features_and_logits(model, images(4), model.unused)


def test_the_hooks_are_gone_after_an_error() -> None:
    model = Twice().eval()
    wrong_shape = torch.rand(2, 1, 3, 3)
    with pytest.raises(RuntimeError):
        last_linear(model, wrong_shape)
    with pytest.raises(RuntimeError):
        features_and_logits(model, wrong_shape, model.head)
    assert hooks(model) == 0
