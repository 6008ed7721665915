"""The adversary inside training: what it returns, where it aims, and that it leaves no trace on the model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import ModelError, RecipeError
from unmask.streams import Streams
from unmask.threat import L2, Linf
from unmask.training import PgdAdversary

THREAT = Linf("0.1")
AIMS = ("untargeted", "least_likely", "random")


def streams(count: int = 6) -> Streams:
    return Streams.derive(7, range(count), "attack")


def adversary(**settings: object) -> PgdAdversary:
    return PgdAdversary(**{"threat": THREAT, "steps": 5, "step_size": 0.03, **settings})  # type: ignore[arg-type]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(x), y, reduction="none")


class TestResult:
    @pytest.mark.parametrize("aim", AIMS)
    @pytest.mark.parametrize("threat", [THREAT, L2(0.5)], ids=str)
    def test_it_stays_in_ball_and_box(self, aim, threat, network, images) -> None:
        x, y = images
        x = x.clone()
        x[0], x[1] = 0.0, 1.0
        x_adv = adversary(aim=aim, threat=threat, step_size=0.3)(network, x, y, streams())
        assert threat.contains(x_adv, x).all()
        assert not torch.equal(x_adv, x)
        assert not x_adv.requires_grad

    def test_it_is_pgd_from_a_uniform_start_and_returns_the_last_iterate(self, network, images) -> None:
        x, y = images
        x_adv = x + 0.1 * (2 * streams().uniform(x.shape[1:]) - 1)
        for _ in range(5):
            x_adv = x_adv.clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(network(x_adv), y, reduction="sum"), x_adv)
            x_adv = x + (x_adv.detach() + 0.03 * gradient.sign() - x).clamp(-0.1, 0.1)
        expected = x_adv.clamp(0, 1)
        torch.testing.assert_close(adversary()(network, x, y, streams()), expected, rtol=0, atol=1e-6)

    def test_it_raises_the_loss(self, network, images) -> None:
        x, y = images
        x_adv = adversary()(network, x, y, streams())
        assert (loss_of(network, x_adv, y) > loss_of(network, x, y)).all()

    def test_it_depends_on_the_streams_alone(self, network, images) -> None:
        x, y = images
        before = torch.get_rng_state()
        first, again = (adversary()(network, x, y, streams()) for _ in range(2))
        other = adversary()(network, x, y, Streams.derive(8, range(6), "attack"))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(before, torch.get_rng_state())

    def test_an_image_is_attacked_the_same_in_any_batch(self, network, images) -> None:
        x, y = images
        alone = adversary()(network, x[2:4], y[2:4], streams().select(torch.tensor([2, 3])))
        torch.testing.assert_close(alone, adversary()(network, x, y, streams())[2:4], rtol=0, atol=1e-6)


class TestAim:
    """A linear model with one pixel per class, whose logits the test sets: the aim shows in where the pixels go."""

    CLASSES = 5

    def aimed(self, aim: str, logits: Tensor, y: Tensor) -> Tensor:
        """Return how far each class's own pixel was moved: (B, K), with logits = offset + pixels."""
        x = torch.full((len(y), self.CLASSES, 1, 1), 0.5)
        offset = logits - 0.5

        def model(images: Tensor) -> Tensor:
            return offset[: len(images)] + images.flatten(1)

        wrapped = Wrapped(model)
        moved = adversary(aim=aim, steps=20)(wrapped, x, y, streams(len(y)))
        return (moved - x).flatten(1)

    def targets(self, aim: str, logits: Tensor, y: Tensor) -> Tensor:
        """Return the one class per image whose pixel the attack raised."""
        raised = self.aimed(aim, logits, y) > 0.05
        assert (raised.sum(1) == 1).all()
        return raised.int().argmax(1)

    def test_untargeted_lowers_the_true_class(self) -> None:
        y = torch.tensor([0, 3])
        moves = self.aimed("untargeted", torch.zeros(2, self.CLASSES), y)
        assert (moves.gather(1, y[:, None]) < -0.05).all()
        assert ((moves > 0.05).sum(1) == self.CLASSES - 1).all()

    def test_least_likely_raises_the_least_likely_class(self) -> None:
        logits = torch.tensor([[3.0, 1.0, -2.0, 0.0, 2.0], [0.0, 1.0, 2.0, 3.0, -4.0]])
        assert self.targets("least_likely", logits, torch.tensor([0, 3])).tolist() == [2, 4]

    def test_least_likely_never_raises_the_true_class(self) -> None:
        logits = torch.tensor([[3.0, 1.0, -2.0, 0.0, 2.0], [0.0, 1.0, 2.0, 3.0, -4.0]])
        assert self.targets("least_likely", logits, torch.tensor([2, 4])).tolist() == [3, 0]

    def test_random_raises_every_wrong_class_and_never_the_true_one(self) -> None:
        y = torch.arange(200) % self.CLASSES
        targets = self.targets("random", torch.zeros(200, self.CLASSES), y)
        assert (targets != y).all()
        counts = torch.bincount(targets * self.CLASSES + y, minlength=25).view(5, 5)
        assert (counts.fill_diagonal_(10) > 0).all()

    def test_the_random_target_is_not_tied_to_the_start(self) -> None:
        y = torch.zeros(200, dtype=torch.int64)
        targets = self.targets("random", torch.zeros(200, self.CLASSES), y)
        first_draw = streams(200).integers(self.CLASSES - 1) + 1
        assert 0.1 < (targets == first_draw).float().mean() < 0.4


class Wrapped(nn.Module):
    """A function as a module, as training takes modules."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class TestTraces:
    """Batch norm, module modes and gradients are as they were, in either mode."""

    @pytest.mark.parametrize("eval_mode", [True, False])
    @pytest.mark.parametrize("aim", AIMS)
    def test_statistics_modes_and_gradients_are_untouched(self, eval_mode, aim, small, images) -> None:
        small.train()
        small.norm.eval()
        before = copy.deepcopy(small.state_dict())
        adversary(eval_mode=eval_mode, aim=aim)(small, *images, streams())
        assert small.training
        assert small.conv.training
        assert not small.norm.training
        assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())
        assert all(parameter.grad is None for parameter in small.parameters())

    def test_it_attacks_in_eval_mode_by_default(self, small, images) -> None:
        small.train()
        adversary()(small, *images, streams())
        assert [training for training, _ in small.seen] == [False] * 5

    def test_without_eval_mode_it_attacks_with_the_batch_statistics(self, small, images) -> None:
        small.train()
        by_running = adversary()(small, *images, streams())
        small.seen.clear()
        by_batch = adversary(eval_mode=False)(small, *images, streams())
        assert all(training for training, _ in small.seen)
        assert not torch.equal(by_running, by_batch)
        assert small.norm.num_batches_tracked == 0

    @pytest.mark.parametrize("eval_mode", [True, False])
    def test_a_failing_attack_leaves_none_either(self, eval_mode, small, images) -> None:
        small.train()
        before = copy.deepcopy(small.norm.state_dict())
        with torch.no_grad():
            small.head.bias[0] = torch.nan
        with pytest.raises(ModelError, match="NaN"):
            adversary(eval_mode=eval_mode)(small, *images, streams())
        assert small.norm.training
        assert all(torch.equal(before[name], tensor) for name, tensor in small.norm.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aim": "least-likely"}, "no aim of the adversary.*Did you mean 'least_likely'"),
        ({"steps": 0}, "takes 0 steps of"),
        ({"step_size": 0.0}, r"5 steps of 0\.0 pixels"),
        ({"step_size": float("nan")}, "steps of nan pixels"),
    ],
)
def test_unusable_settings_are_refused(settings, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        adversary(**settings)
