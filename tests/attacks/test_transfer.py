"""Transfer reaches models that give no gradients, asks them little, and leaves alone what it has broken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks import pgd, transfer
from unmask.attacks.transfer import _resize
from unmask.errors import AuditError, DataError, ModelError
from unmask.losses import predictions
from unmask.streams import Streams
from unmask.threat import Linf

THREAT = Linf("0.1")


class Asked:
    """A model that counts what it is asked, and gives answers without gradients on request."""

    def __init__(self, model: nn.Module, *, gradients: bool = True) -> None:
        self.model, self.gradients, self.batches = model, gradients, list[int]()

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        logits: Tensor = self.model(x)
        return logits if self.gradients else logits.detach()


@pytest.fixture
def scene(network: Callable[..., nn.Module]) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A model, a similar one (every weight off by some 20%), and images with the model's own labels."""
    model, similar = network(3).eval(), network(3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in similar.parameters():
            tensor.mul_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
    x = torch.rand(40, 2, 4, 4, generator=generator)
    return model, similar, x, predictions(model(x))


def run(model: Any, x: Tensor, y: Tensor, **settings: Any) -> Any:
    return transfer(model, x, y, threat=THREAT, generator=Streams.derive(0, range(len(x))), **settings)


def test_a_model_without_gradients_falls_by_those_of_another(
    scene: tuple[nn.Module, nn.Module, Tensor, Tensor],
) -> None:
    model, similar, x, y = scene
    masked = Asked(model, gradients=False)
    blind = pgd(masked, x, y, threat=THREAT, generator=Streams.derive(0, range(40))).broken.sum()
    seeing = pgd(model, x, y, threat=THREAT, generator=Streams.derive(0, range(40))).broken.sum()
    crafted = run(masked, x, y, surrogates=[similar]).broken.sum()
    assert crafted > blind + 10
    assert crafted >= 0.8 * seeing


def test_the_attacked_model_is_asked_at_the_checks_alone(scene: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    model, similar, x, y = scene
    asked, surrogate = Asked(model), Asked(similar)
    result = run(asked, x, y, surrogates=[surrogate], steps=7, check_every=3)
    assert len(asked.batches) == 4  # at 0, 3, 6 and 7 steps
    assert len(surrogate.batches) == 7
    assert asked.batches[1:] == surrogate.batches[0::3]  # the survivors of one check go on to the next
    assert sorted(asked.batches, reverse=True) == asked.batches and asked.batches[-1] < 40
    assert result.forwards.sum() == sum(asked.batches) + sum(surrogate.batches)
    assert result.backwards.sum() == sum(surrogate.batches)
    assert (result.trace.isfinite().sum(1) == torch.tensor(asked.batches)).all()


def test_a_second_surrogate_gets_what_the_first_left(scene: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    model, similar, x, y = scene
    useless = Asked(model, gradients=False)
    alone = run(model, x, y, surrogates=[useless]).broken
    second = Asked(similar)
    both = run(model, x, y, surrogates=[useless, second])
    assert second.batches[0] <= int((~alone).sum())
    assert (both.broken >= alone).all() and both.broken.sum() > alone.sum()
    third = Asked(similar)
    again = run(model, x, y, surrogates=[useless, third], restarts=2)
    assert len(third.batches) > len(second.batches)
    assert (again.broken >= both.broken).all()


@pytest.mark.parametrize("scale", [2000.0, 1e-4])
def test_the_scale_of_logits_does_not_matter(scale: float, scene: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    model, similar, x, y = scene
    plain = run(model, x, y, surrogates=[similar])
    scaled = run(lambda x: scale * model(x), x, y, surrogates=[lambda x: scale * similar(x)])
    assert torch.equal(scaled.broken, plain.broken)


def test_diversity_changes_the_way_and_not_the_judge(scene: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    model, similar, x, y = scene
    plain, diverse = (run(model, x, y, surrogates=[similar], diversity=share) for share in (0.0, 1.0))
    assert not torch.equal(plain.x_adv, diverse.x_adv)
    for result in (plain, diverse):
        assert torch.equal(result.broken, predictions(model(result.x_adv)) != y)


def test_an_axis_shrinks_by_interpolation_and_is_padded_with_zeros() -> None:
    ramp = torch.arange(1.0, 11.0)
    whole, first, last = _resize(10, torch.tensor([0.99, 0.0, 0.0]), torch.tensor([0.5, 0.0, 0.99])) @ ramp
    assert torch.equal(whole, ramp)
    shrunk = 1 + (torch.arange(9) + 0.5) * 10 / 9 - 0.5
    zero = torch.zeros(1)
    torch.testing.assert_close(first, torch.cat([shrunk, zero]))
    torch.testing.assert_close(last, torch.cat([zero, shrunk]))


def test_every_length_and_place_comes_up() -> None:
    draws = torch.rand(2, 2000, generator=torch.Generator().manual_seed(0))
    places = _resize(30, *draws).sum(2) > 0
    lengths = places.sum(1)
    assert lengths.unique().tolist() == [27, 28, 29, 30]
    firsts = places[lengths == 27].int().argmax(1)
    assert firsts.unique().tolist() == [0, 1, 2, 3]
    assert _resize(1, torch.tensor([0.7]), torch.tensor([0.7])).item() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"surrogates": []}, "no surrogates"),
        ({"check_every": 0}, "check_every is 0; expected 1"),
        ({"diversity": 1.5}, "diversity is 1.5; expected a probability"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict[str, Any], message: str, scene: tuple[nn.Module, nn.Module, Tensor, Tensor]
) -> None:
    model, similar, x, y = scene
    with pytest.raises(AuditError, match=message):
        run(model, x, y, **{"surrogates": [similar], **settings})


def test_flat_images_need_diversity_off(scene: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    model, similar, x, y = scene
    with pytest.raises(AuditError, match=r"these are \(40, 32\); set diversity=0"):
        run(model, x.flatten(1), y, surrogates=[similar])
    assert run(model, x.flatten(1), y, surrogates=[similar], diversity=0.0).broken.any()


def test_a_surrogate_must_know_the_classes(
    network: Callable[..., nn.Module], scene: tuple[nn.Module, nn.Module, Tensor, Tensor]
) -> None:
    model, _, x, y = scene
    with pytest.raises(DataError, match="as the model has 2 classes"):
        run(model, x, y, surrogates=[network(2).eval()])
    with pytest.raises(ModelError, match="expected logits"):
        run(model, x, y, surrogates=[lambda x: x])
