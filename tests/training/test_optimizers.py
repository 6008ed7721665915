"""Optimizers and schedules: what they decay, what they pass on, and their values at chosen moments."""

import pytest
import torch
from torch import nn

from unmask.errors import RecipeError
from unmask.training import ConstantRate, CosineRate, CyclicRate, Optimizer, StaircaseRate, StepRate


class TestOptimizer:
    def test_weight_decay_shrinks_kernels_and_spares_biases_and_batch_norm(self, small) -> None:
        before = {name: parameter.detach().clone() for name, parameter in small.named_parameters()}
        optimizer = Optimizer("sgd", lr=0.5, weight_decay=0.1).build(small)
        for parameter in small.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, parameter in small.named_parameters():
            factor = 1 - 0.5 * 0.1 if name in ("conv.weight", "head.weight") else 1.0
            torch.testing.assert_close(parameter.detach(), factor * before[name], rtol=1e-6, atol=0)

    def test_without_weight_decay_nothing_shrinks(self, small) -> None:
        before = small.head.weight.detach().clone()
        optimizer = Optimizer("sgd", lr=0.5).build(small)
        for parameter in small.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert torch.equal(small.head.weight, before)

    def test_frozen_parameters_are_left_out(self, small) -> None:
        small.conv.requires_grad_(False)
        optimizer = Optimizer("adam", 1e-3).build(small)
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(p) for p in small.parameters() if p.requires_grad)

    @pytest.mark.parametrize(
        ("optimizer", "kind"),
        [
            (Optimizer("adam", 1e-3, {"eps": 1e-6}), torch.optim.Adam),
            (Optimizer("sgd", 0.1, {"momentum": 0.9}), torch.optim.SGD),
            (Optimizer("rmsprop", 0.045, {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}), torch.optim.RMSprop),
        ],
    )
    def test_settings_are_passed_on_to_torch(self, optimizer: Optimizer, kind: type) -> None:
        built = optimizer.build(nn.Linear(2, 2))
        assert type(built) is kind
        for group in built.param_groups:
            assert group["lr"] == optimizer.lr
            assert {name: group[name] for name in optimizer.settings} == dict(optimizer.settings)

    def test_an_unknown_name_is_answered_with_the_closest(self) -> None:
        with pytest.raises(RecipeError, match=r"no optimizer 'adamw'.*Did you mean 'adam'"):
            Optimizer("adamw", 1e-3)

    @pytest.mark.parametrize("lr", [0.0, -1e-3, float("nan")])
    def test_a_learning_rate_that_is_not_positive_is_refused(self, lr: float) -> None:
        with pytest.raises(RecipeError, match=r"learning rate is .* positive"):
            Optimizer("adam", lr)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (ConstantRate(), {0: 1, 3.7: 1, 10: 1}),
        (CyclicRate(0.4), {0: 0, 2: 0.5, 4: 1, 7: 0.5, 10: 0}),
        (CosineRate(), {0: 1, 2.5: 0.853553, 5: 0.5, 7.5: 0.146447, 10: 0, 11: 0}),
        (StepRate((0.5, 0.75)), {0: 1, 4.99: 1, 5: 0.1, 7.49: 0.1, 7.5: 0.01, 10: 0.01}),
        (StepRate((0.25,), rate=0.5), {0: 1, 2.4: 1, 2.5: 0.5}),
        (StaircaseRate(), {0: 1, 1.99: 1, 2: 0.94, 3.99: 0.94, 4: 0.8836, 9: 0.94**4}),
        (StaircaseRate(rate=0.5, every=1.5), {1.4: 1, 1.5: 0.5, 3: 0.25}),
    ],
    ids=repr,
)
def test_schedules_have_the_values_of_their_definition(schedule, values) -> None:
    found = {epoch: schedule.factor(epoch, epochs=10) for epoch in values}
    assert found == pytest.approx(values, abs=1e-6)
