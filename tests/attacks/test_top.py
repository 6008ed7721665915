"""Attacks on top-k accuracy: an image falls once its label is not among the k likeliest classes, and not before."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.attacks import pgd, targeted_pgd, transfer
from unmask.attacks.start import clean
from unmask.attacks.targets import least_likely_target
from unmask.errors import AuditError
from unmask.losses import answers, cross_entropy, margin
from unmask.threat import Linf

CLASSES, WIDTH = 4, 5
tops = pytest.mark.parametrize("top", [1, 2, 3])
budgets = pytest.mark.parametrize("eps", [0.02, 0.06, 0.12])


def blocks(x: Tensor) -> Tensor:
    """Return as logit of each class the sum of its own row: one signed step closes the gap to every class at once."""
    return x.sum((1, 3))


@pytest.fixture
def scene() -> tuple[Tensor, Tensor]:
    """Images (80, 1, 4, 5) well inside the box, and labels of which some are not the likeliest class."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(80, 1, CLASSES, WIDTH, generator=generator)
    y = blocks(x).argmax(1)
    y[:30] = torch.randint(CLASSES, (30,), generator=generator)
    return x, y


def distance(x: Tensor, y: Tensor, top: int) -> Tensor:
    """Return the exact Linf distance (B,) to where `top` wrong classes lie above the label, 0 or less where they do."""
    return -margin(blocks(x), y, top=top) / (2 * WIDTH)


@tops
@budgets
def test_pgd_breaks_exactly_what_can_be_broken(scene: tuple[Tensor, Tensor], top: int, eps: float) -> None:
    x, y = scene
    result = pgd(blocks, x, y, threat=Linf(eps), steps=10, start=clean(), top=top)
    assert torch.equal(result.broken, distance(x, y, top) < eps)
    logits = blocks(result.x_adv)
    assert torch.equal(answers(logits, y, top) != y, result.broken)
    torch.testing.assert_close(result.margin, margin(logits, y, top=top))


@tops
@budgets
def test_transfer_from_the_model_itself_breaks_the_same(scene: tuple[Tensor, Tensor], top: int, eps: float) -> None:
    x, y = scene
    settings: dict[str, Any] = {"surrogates": [blocks], "diversity": 0.0, "loss": cross_entropy, "top": top}
    result = transfer(blocks, x, y, threat=Linf(eps), **settings)
    assert torch.equal(result.broken, distance(x, y, top) < eps)


def test_transfer_climbs_the_margin_that_counts_unless_told_otherwise(scene: tuple[Tensor, Tensor]) -> None:
    x, y = scene
    result = transfer(blocks, x, y, threat=Linf(0.03), surrogates=[blocks], check_every=1, diversity=0.0, top=2)
    seen = result.trace.nan_to_num(nan=-torch.inf).amax(0)
    torch.testing.assert_close(seen, result.margin)


@tops
@budgets
def test_towards_the_least_likely_class_one_class_alone_comes_past_the_label(
    scene: tuple[Tensor, Tensor], top: int, eps: float
) -> None:
    x, y = scene
    logits, target = blocks(x), least_likely_target(blocks, x, y)
    own = logits.gather(1, y[:, None])
    rank = (logits > own).sum(1)
    # The label and all but the target sink alike, so that only the target's gap closes.
    comes_past = (own - logits.gather(1, target[:, None])).squeeze(1).clamp(min=0) < 2 * WIDTH * eps
    expected = rank + (comes_past & (rank < CLASSES - 1)) >= top
    result = pgd(blocks, x, y, threat=Linf(eps), steps=10, target=target, start=clean(), top=top)
    assert torch.equal(result.broken, expected)


def test_targeted_pgd_and_restarts_keep_to_it(scene: tuple[Tensor, Tensor]) -> None:
    x, y = scene
    result = targeted_pgd(blocks, x, y, threat=Linf(0.12), restarts=2, top=3)
    assert torch.equal(answers(blocks(result.x_adv), y, 3) != y, result.broken)
    assert 0 < result.broken.sum() < targeted_pgd(blocks, x, y, threat=Linf(0.12), restarts=2).broken.sum()


@pytest.mark.parametrize("top", [0, CLASSES])
def test_all_or_none_of_the_classes_are_refused(scene: tuple[Tensor, Tensor], top: int) -> None:
    with pytest.raises(AuditError, match=f"top is {top}; expected 1 .* to 3"):
        pgd(blocks, *scene, threat=Linf(0.1), top=top)
