"""Targets are wrong classes, always; and those that their name says."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask.attacks import targeted_pgd
from unmask.attacks.targets import least_likely_target, likeliest_target, random_target
from unmask.errors import AuditError, DataError
from unmask.losses import cross_entropy
from unmask.streams import Streams
from unmask.threat import Linf

LOGITS = torch.tensor([[4.0, 1.0, 2.0, 3.0], [0.0, 5.0, -5.0, 1.0], [3.0, 3.0, 3.0, 3.0]])


def says(logits: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: logits[: len(x)]


@settings(deadline=None)
@given(st.integers(2, 1000), st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(0, 2**40))
def test_a_random_target_is_never_the_true_class(classes: int, labels: list[int], seed: int) -> None:
    y = torch.tensor(labels) % classes
    target = random_target(y, classes, torch.Generator().manual_seed(seed))
    assert target.dtype == torch.int64
    assert ((target >= 0) & (target < classes) & (target != y)).all()


def test_random_targets_are_uniform_over_the_wrong_classes() -> None:
    y = torch.arange(4).repeat(1000)
    target = random_target(y, 4, torch.Generator().manual_seed(0))
    counts = torch.stack([target[y == label].bincount(minlength=4) for label in range(4)])
    assert (counts.diag() == 0).all()
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert (others - 1000 / 3).abs().max() < 75  # five standard deviations


def test_random_targets_follow_the_examples_streams() -> None:
    y = torch.arange(10)
    whole = random_target(y, 10, Streams.derive(0, range(10), "target"))
    assert torch.equal(random_target(y[4:], 10, Streams.derive(0, range(4, 10), "target")), whole[4:])
    assert not torch.equal(random_target(y, 10, Streams.derive(1, range(10), "target")), whole)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31), st.integers(1, 12))
def test_targets_by_rank_are_never_the_true_class(classes: int, seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few values make ties, also between the true class and all others.
    logits = torch.randint(3, (5, classes), generator=generator).float()
    y = torch.randint(classes, (5,), generator=generator)
    x = torch.zeros(5, 1, 2, 2)
    for target in (least_likely_target(says(logits), x, y), likeliest_target(says(logits), x, y, rank)):
        assert target.dtype == torch.int64
        assert ((target >= 0) & (target < classes) & (target != y)).all()


def test_least_likely_and_likeliest_are_what_they_say() -> None:
    x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 2])
    assert least_likely_target(says(LOGITS), x, y).tolist() == [1, 0]
    assert [likeliest_target(says(LOGITS), x, y, rank).tolist() for rank in (1, 2, 3, 4)] == [
        [3, 1], [2, 3], [1, 0], [3, 1],
    ]  # fmt: skip


def test_two_classes_leave_one_target() -> None:
    x, y, model = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]), says(LOGITS[:, :2])
    for target in (
        least_likely_target(model, x, y),
        likeliest_target(model, x, y, 3),
        random_target(y, 2, torch.Generator()),
    ):
        assert target.tolist() == [1, 0, 1]


@pytest.mark.parametrize("choose", [least_likely_target, likeliest_target])
def test_labels_that_the_model_does_not_know_are_refused(choose: Callable[..., Tensor]) -> None:
    with pytest.raises(DataError, match=r"Labels lie in 0\.\.4; expected 0\.\.3, as the model has 4 classes"):
        choose(says(LOGITS), torch.zeros(2, 1, 2, 2), torch.tensor([0, 4]))


@pytest.mark.parametrize(("choose", "aims"), [("least_likely", {1}), ("likeliest", {3}), ("random", {1, 2, 3})])
def test_targeted_pgd_climbs_towards_its_target(
    choose: Literal["least_likely", "random", "likeliest"], aims: set[int], linear: Callable[..., nn.Module]
) -> None:
    model = linear(torch.eye(4), torch.tensor([9.0, 0.0, 1.0, 2.0]))
    x, y = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    seen: list[Tensor] = []

    def watched(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        seen.append(target)
        return cross_entropy(logits, y, target)

    targeted_pgd(
        model, x, y, threat=Linf("0.1"), choose=choose, steps=3, loss=watched, generator=Streams.derive(0, range(40))
    )
    assert len(seen) == 4 and all(torch.equal(target, seen[0]) for target in seen)
    assert set(seen[0].tolist()) == aims


def test_an_unknown_choice_is_answered_with_a_suggestion(linear: Callable[..., nn.Module]) -> None:
    model = linear(torch.eye(4), torch.zeros(4))
    with pytest.raises(AuditError, match=r"no choice of target 'least-likely'\. Did you mean 'least_likely'\?"):
        targeted_pgd(model, torch.zeros(1, 1, 2, 2), torch.tensor([0]), threat=Linf("0.1"), choose="least-likely")  # type: ignore[arg-type]
