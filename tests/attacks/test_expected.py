"""Expectation over transformation: the mean of a random model's gradients, and what it costs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unmask.attacks.ascent import ascend
from unmask.attacks.gradient import expected
from unmask.attacks.problem import Problem, pose
from unmask.attacks.start import clean
from unmask.attacks.stepper import fixed
from unmask.errors import AuditError
from unmask.losses import margin, predictions
from unmask.threat import Linf


class Noisy(nn.Module):
    """A model behind heavy noise on its input, drawn anew in every pass."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma
        self.generator = torch.Generator().manual_seed(0)
        self.seen = {"forwards": 0, "backwards": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.seen["forwards"] += len(x)
        logits: Tensor = self.model(x + self.sigma * torch.randn(x.shape, generator=self.generator))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(len(gradient)))
        return logits

    def _count(self, number: int) -> None:
        self.seen["backwards"] += number


def gradient(problem: Problem, samples: int) -> Tensor:
    x_adv, _, values = problem.forward(problem.x, graph=True)
    return expected(samples).estimate(problem, x_adv, values, torch.ones(len(problem.x), dtype=torch.bool)).gradient


@pytest.fixture
def posed(network: Callable[..., nn.Module]) -> tuple[nn.Module, Problem]:
    model = network(3).eval()
    x = torch.rand(40, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    y = predictions(model(x))
    return model, pose(Noisy(model, 0.5), x, y, threat=Linf("0.1"), generator=None, loss=margin)


def test_the_variance_falls_with_the_samples(posed: tuple[nn.Module, Problem]) -> None:
    _, problem = posed
    variances = []
    for samples in (1, 16):
        draws = torch.stack([gradient(problem, samples) for _ in range(30)])
        variances.append(draws.var(0).mean())
    assert 10 < variances[0] / variances[1] < 25


def test_a_model_without_randomness_gives_its_own_gradient(posed: tuple[nn.Module, Problem]) -> None:
    model, noisy = posed
    problem = pose(model, noisy.x, noisy.y, threat=noisy.threat, generator=None, loss=margin)
    torch.testing.assert_close(gradient(problem, 5), gradient(problem, 1))


def test_every_sample_is_counted(posed: tuple[nn.Module, Problem]) -> None:
    _, problem = posed
    result = ascend(problem, start=clean(), stepper=fixed(0.01), steps=4, gradient=expected(3))
    assert isinstance(problem.model, Noisy)
    seen = {"forwards": int(result.forwards.sum()), "backwards": int(result.backwards.sum())}
    assert seen == problem.model.seen
    assert result.forwards.max() == 5 + 4 * 2 and result.backwards.max() == 4 * 3


def test_no_samples_are_refused() -> None:
    with pytest.raises(AuditError, match="samples is 0; expected 1"):
        expected(0)
