"""Reversible stages: the gradients of kept activations, from memory that does not grow with depth."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from unmask.attacks.fast_passes import FastPasses
from unmask.models.initialization import initialized, wide_normal
from unmask.models.revnet import RevNet

DOUBLE = {"rtol": 1e-9, "atol": 1e-12}


def revnet(units: tuple[int, ...] = (3, 2, 2), *, recompute: bool = True) -> RevNet:
    """Return a small network whose batch norms are no identity and whose statistics no defaults."""
    generator = torch.Generator().manual_seed(3)
    network = initialized(
        lambda: RevNet(5, widths=(8, 8, 16, 20), units=units, strides=(1, 2, 2), recompute=recompute),
        wide_normal,
        generator,
    ).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                value.data += 0.3 * torch.rand(value.shape, generator=generator, dtype=torch.float64)
    return network


def keeping(network: RevNet) -> RevNet:
    """Return a copy that keeps its activations."""
    other = copy.deepcopy(network)
    for stage in other.stages:
        stage.recompute = False
    return other


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def loss(logits: Tensor) -> Tensor:
    return logits.logsumexp(1).square().sum() + logits[:, 0].sum()


def gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Return the gradients of the loss in the images and in every parameter."""
    leaf = x.clone().requires_grad_()
    loss(network(leaf)).backward()
    return {"images": leaf.grad, **{name: value.grad for name, value in network.named_parameters()}}


def check_equal(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    torch.testing.assert_close(found, expected, **DOUBLE)


@contextmanager
def counting_saved_bytes(network: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the bytes of every storage that autograd keeps, without those of the network itself."""
    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        yield lambda: sum(value.untyped_storage().nbytes() for address, value in kept.items() if address not in own)


def saved_bytes(times: int, *, recompute: bool) -> int:
    network = revnet((2 * times,) * 3, recompute=recompute)
    with counting_saved_bytes(network) as count:
        logits = network(images())
        total = count()
    assert logits.requires_grad
    return total


def test_memory_does_not_grow_with_depth() -> None:
    assert saved_bytes(4, recompute=True) <= 1.15 * saved_bytes(1, recompute=True)
    assert saved_bytes(4, recompute=False) > 2.5 * saved_bytes(1, recompute=False), "the measure sees growth"
    assert saved_bytes(1, recompute=True) < 0.5 * saved_bytes(1, recompute=False)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("units", [(1, 1, 1), (3, 2, 2), (6, 6, 6)])
def test_gradients_are_those_of_kept_activations(train: bool, units: tuple[int, ...]) -> None:
    network = revnet(units).train(train)
    other = keeping(network)
    torch.testing.assert_close(network(images()), other(images()), **DOUBLE)
    check_equal(gradients(network, images()), gradients(other, images()))


def test_running_statistics_move_once_per_step() -> None:
    network = revnet().train()
    other = keeping(network)
    gradients(network, images())
    gradients(other, images())
    for (name, found), expected in zip(network.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(found, expected), name
        if name.endswith("num_batches_tracked"):
            assert found == 1
    assert not torch.equal(network.norm.running_mean, revnet().norm.running_mean), "they do move"


@pytest.mark.parametrize("train", [True, False])
def test_gradients_in_the_images_alone_need_no_trainable_parameters(train: bool) -> None:
    network = revnet().train(train).requires_grad_(False)
    x = images().requires_grad_()
    (found,) = torch.autograd.grad(loss(network(x)), x)
    (expected,) = torch.autograd.grad(loss(keeping(network)(x)), x)
    torch.testing.assert_close(found, expected, **DOUBLE)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_some_parameters_frozen() -> None:
    network = revnet().train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("norm" not in name and "stages.1" not in name)
    found = gradients(network, images())
    assert found["stages.1.units.0.f.conv1.weight"] is None
    check_equal(found, gradients(keeping(network), images()))


@pytest.mark.parametrize("train", [True, False])
def test_parameters_given_from_outside_are_the_ones_that_count(train: bool) -> None:
    network = revnet().train(train)
    own = {name: value.clone() for name, value in network.named_parameters()}

    def given_gradients(of: RevNet) -> list[Tensor]:
        given = {name: (0.7 * value).detach().requires_grad_() for name, value in own.items()}
        x = images().requires_grad_()
        logits = functional_call(of, given, (x,))
        # The module holds its own parameters again when the gradient is taken.
        return list(torch.autograd.grad(loss(logits), [x, *given.values()]))

    torch.testing.assert_close(given_gradients(network), given_gradients(keeping(network)), **DOUBLE)
    assert all(torch.equal(value, own[name]) and value.grad is None for name, value in network.named_parameters())


def test_attacks_fast_passes_run_it() -> None:
    network = revnet().float().eval()
    fast, x = FastPasses(network), images().float().requires_grad_()
    (found,) = torch.autograd.grad(loss(fast(x)), x)
    assert fast._weights is not None, "it was not run as it is"
    (expected,) = torch.autograd.grad(loss(keeping(network)(x)), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_answers_without_gradients_are_the_same(train: bool) -> None:
    network = revnet().train(train)
    with torch.no_grad(), counting_saved_bytes(network) as count:
        found = network(images())
        assert count() == 0
    assert not found.requires_grad
    torch.testing.assert_close(found, network(images()), **DOUBLE)


@pytest.mark.parametrize("train", [True, False])
def test_the_mode_of_the_forward_pass_counts(train: bool) -> None:
    network = revnet().train(train)
    expected = gradients(keeping(network), images())
    leaf = images().requires_grad_()
    value = loss(network(leaf))
    network.train(not train)
    value.backward()
    assert all(module.training is not train for module in network.modules())
    check_equal({"images": leaf.grad, **{name: p.grad for name, p in network.named_parameters()}}, expected)


def test_batch_norms_may_be_in_another_mode_than_the_network() -> None:
    network = revnet().train()
    frozen = network.get_submodule("stages.0.units.1.f.norm1").eval()
    check_equal(gradients(network, images()), gradients(keeping(network), images()))
    assert network.training and not frozen.training


class TwoWays(nn.Module):
    """A layer with a switch of its own, such as one of two batch norms taking its turn."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main, self.other = main, copy.deepcopy(main)
        self.other.weight.data += 0.5
        self.turned = False

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) if self.turned else self.main(x)


def test_the_switches_of_the_forward_pass_count() -> None:
    network = revnet().train()
    residual = network.get_submodule("stages.1.units.1.f")
    residual.norm1 = two = TwoWays(residual.norm1)
    two.turned = True
    expected = gradients(keeping(network), images())
    leaf = images().requires_grad_()
    value = loss(network(leaf))
    two.turned = False
    value.backward()
    assert two.other.weight.grad is not None and two.main.weight.grad is None and two.turned is False
    check_equal({"images": leaf.grad, **{name: p.grad for name, p in network.named_parameters()}}, expected)


def test_the_statistics_of_the_forward_pass_count() -> None:
    # The stage alone: outside of it torch's own batch norm takes the statistics that it finds.
    stage = revnet().eval().stages[0]
    x = torch.rand(3, 8, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(stage(x).mean((2, 3))), x)
    value = loss(stage(x).mean((2, 3)))
    stage.train()(x + 1)
    (found,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(found, expected, **DOUBLE)


def test_a_graph_that_is_retained_gives_the_same_again() -> None:
    network, x = revnet().train(), images().requires_grad_()
    value = loss(network(x))
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (second,) = torch.autograd.grad(value, x)
    assert torch.equal(first, second)


def test_second_derivatives_need_kept_activations() -> None:
    x = images().requires_grad_()
    (first,) = torch.autograd.grad(loss(revnet()(x)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    (first,) = torch.autograd.grad(loss(revnet(recompute=False)(x)), x, create_graph=True)
    assert torch.autograd.grad(first.sum(), x)[0].abs().sum() > 0


def test_autocast_is_that_of_the_forward_pass() -> None:
    network = revnet((4, 4, 4)).float().train()

    def under_autocast(of: RevNet) -> tuple[Tensor, int]:
        x = images().float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), counting_saved_bytes(of) as count:
            logits, kept = of(x), count()
        (gradient,) = torch.autograd.grad(loss(logits.float()), x)
        return gradient.flatten(), kept

    (found, few), (expected, many) = under_autocast(network), under_autocast(keeping(network))
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999
    assert few < 0.5 * many


def test_16_bit_networks_keep_their_activations() -> None:
    network = revnet().bfloat16().eval()
    x = images().bfloat16().requires_grad_()
    (found,) = torch.autograd.grad(loss(network(x)), x)
    (expected,) = torch.autograd.grad(loss(keeping(network)(x)), x)
    assert torch.equal(found, expected)
