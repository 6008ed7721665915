"""Adversarial losses against the papers' formulas, written out one image at a time in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from unmask.errors import AuditError
from unmask.losses import (
    LOSSES,
    Loss,
    answers,
    cross_entropy,
    dlr,
    margin,
    predictions,
    probability_margin,
    scale_invariant,
)

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - z.max() - np.log(np.exp(z - z.max()).sum())


def gap(z: np.ndarray, y: int, target: int | None) -> float:
    return (max(np.delete(z, y)) if target is None else z[target]) - z[y]


def by_hand_cross_entropy(z: np.ndarray, y: int, target: int | None) -> float:
    return -log_softmax(z)[y] if target is None else log_softmax(z)[target]


def by_hand_dlr(z: np.ndarray, y: int, target: int | None) -> float:
    first, *rest = sorted(z, reverse=True)
    if target is None:
        return gap(z, y, None) / (first - (rest[1] if len(z) > 2 else rest[-1]))
    return gap(z, y, target) / (first - ((rest[1] + rest[2]) / 2 if len(z) > 3 else rest[-1]))


def by_hand_scale_invariant(z: np.ndarray, y: int, target: int | None) -> float:
    first, second = sorted(z, reverse=True)[:2]
    return by_hand_cross_entropy(z / (first - second), y, target)


BY_HAND = {
    "cross_entropy": by_hand_cross_entropy,
    "margin": gap,
    "dlr": by_hand_dlr,
    "probability_margin": lambda z, y, target: gap(np.exp(log_softmax(z)), y, target),
    "scale_invariant": by_hand_scale_invariant,
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw logits without ties, labels and wrong targets."""
    classes, count = draw(st.sampled_from([2, 3, 4, 10])), draw(st.integers(1, 4))
    order = [draw(st.permutations(range(classes))) for _ in range(count)]
    noise = draw(hnp.arrays(np.float64, (count, classes), elements=st.floats(0, 0.9)))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0]))
    y = draw(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    shift = draw(hnp.arrays(np.int64, count, elements=st.integers(1, classes - 1)))
    return scale * (np.array(order) + noise - classes / 2), y, (y + shift) % classes


def tensors(batch: tuple[np.ndarray, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in batch)


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=60)
@given(batch=batches())
def test_losses_are_the_papers_formulas(name: str, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    z, y, target = tensors(batch)
    rows = list(zip(*batch, strict=True))
    untargeted = [BY_HAND[name](row, label, None) for row, label, _ in rows]
    targeted = [BY_HAND[name](row, label, aim) for row, label, aim in rows]
    np.testing.assert_allclose(LOSSES[name](z, y), untargeted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(LOSSES[name](z, y, target), targeted, rtol=1e-9, atol=1e-12)


def test_every_loss_is_written_out_by_hand() -> None:
    assert set(BY_HAND) == set(LOSSES)


@pytest.mark.parametrize("name", ["dlr", "scale_invariant"])
@settings(deadline=None, max_examples=60)
@given(batch=batches(), scale=st.sampled_from([1e-3, 0.1, 7.0, 2000.0]), shift=st.floats(-100, 100))
def test_shift_and_scale_do_not_matter(
    name: str, batch: tuple[np.ndarray, np.ndarray, np.ndarray], scale: float, shift: float
) -> None:
    z, y, target = tensors(batch)
    for aim in (None, target):
        changed = LOSSES[name](scale * z + shift, y, aim)
        torch.testing.assert_close(changed, LOSSES[name](z, y, aim), rtol=1e-6, atol=1e-6)


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
@settings(deadline=None, max_examples=20)
@given(batch=batches())
def test_gradients_are_finite_and_push_the_label_down_and_the_target_up(
    loss: Loss, targeted: bool, batch: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    z, y, target = tensors(batch)
    # The label leads and the target follows. (Towards a class that ranks low, DLR may lift the label too.)
    rows, most, step = torch.arange(len(y)), z.amax(1), 0.1 * z.std()
    z[rows, target], z[rows, y] = most + step, most + 2 * step
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, y, target if targeted else None).sum(), leaf)
    assert slope.isfinite().all()
    assert (slope[rows, y] < 0).all()
    assert (slope[rows, target] > 0).all()
    # No loss changes when all logits of an image are shifted alike.
    assert slope.sum(1).abs().max() <= 1e-9 * (1 + slope.abs().max())


@every_loss
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_gradients_are_those_of_finite_differences(loss: Loss, classes: int, targeted: bool) -> None:
    generator = torch.Generator().manual_seed(classes)
    z = torch.randn(5, classes, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.arange(5) % classes
    target = (y + 1) % classes if targeted else None
    if detaches_its_denominator(loss, classes, targeted):
        # What is held constant in the gradient is held constant in the differences too.
        first, *rest = z.detach().sort(dim=1, descending=True).values.T
        constant = (first - (rest[0] if loss is scale_invariant else rest[-1]))[:, None]
        plain = cross_entropy if loss is scale_invariant else margin
        expected = torch.autograd.grad(plain(z / constant, y, target).sum(), z)[0]
        assert torch.autograd.gradcheck(lambda logits: plain(logits / constant, y, target), (z,))
        torch.testing.assert_close(torch.autograd.grad(loss(z, y, target).sum(), z)[0], expected)
    else:
        assert torch.autograd.gradcheck(lambda logits: loss(logits, y, target), (z,))


def detaches_its_denominator(loss: Loss, classes: int, targeted: bool) -> bool:
    return loss is scale_invariant or (loss is dlr and classes < (4 if targeted else 3))


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_of_two_and_three_classes_still_has_a_gradient(targeted: bool) -> None:
    # The quotient of the papers is constant there (or its denominator does not exist), and peers crash or stall.
    for classes in (2, 3):
        z = torch.tensor([[3.0, 1.0, -1.0][:classes]], requires_grad=True)
        y, target = torch.tensor([0]), torch.tensor([1])
        (slope,) = torch.autograd.grad(dlr(z, y, target if targeted else None).sum(), z)
        assert slope[0, 0] < 0 < slope[0, 1]


@every_loss
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_tied_logits_are_no_trouble(loss: Loss, classes: int) -> None:
    z = torch.zeros(3, classes, requires_grad=True)
    y, target = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0])
    for aim in (None, target):
        values = loss(z, y, aim)
        (slope,) = torch.autograd.grad(values.sum(), z)
        assert values.isfinite().all() and slope.isfinite().all()


def test_scale_invariant_survives_logits_whose_cross_entropy_underflows() -> None:
    # A linear model with logits x2000: the reason why some attacks call it robust.
    z = torch.tensor([[2000.0, 1000.0, -3000.0]], requires_grad=True)
    y = torch.tensor([0])
    (dead,) = torch.autograd.grad(cross_entropy(z, y).sum(), z)
    (alive,) = torch.autograd.grad(scale_invariant(z, y).sum(), z)
    assert (dead == 0).all()
    assert alive[0, 0] < 0 < alive[0, 1]
    assert 1000 * alive[0, 1] == pytest.approx(np.exp(log_softmax(np.array([2.0, 1.0, -3.0]))[1]), rel=1e-6)


def test_probability_margin_lies_between_minus_one_and_one() -> None:
    z = torch.tensor([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(probability_margin(z, torch.tensor([0, 0, 0])), torch.tensor([-1.0, 1.0, 0.0]))


@pytest.mark.parametrize("targeted", [False, True])
def test_truncated_margin_is_madrys(targeted: bool) -> None:
    z = torch.tensor([[0.0, -80.0, 3.0], [0.0, 20.0, 3.0], [0.0, 49.0, 3.0], [0.0, 60.0, 3.0]], requires_grad=True)
    y = torch.zeros(4, dtype=torch.int64)
    target = torch.ones(4, dtype=torch.int64) if targeted else None
    values = margin(z, y, target, confidence=50.0)
    gaps = torch.tensor([-80.0 if targeted else 3.0, 20.0, 49.0, 60.0])
    torch.testing.assert_close(values, -torch.relu(50.0 - gaps))
    (slope,) = torch.autograd.grad(values.sum(), z)
    assert (slope[:3, 0] == -1).all()
    assert (slope[3] == 0).all()  # it dies once the margin exceeds the confidence
    (alive,) = torch.autograd.grad(margin(z, y, target).sum(), z)
    assert (alive[:, 0] == -1).all()


@settings(deadline=None)
@given(batch=batches())
def test_a_positive_margin_is_a_wrong_prediction(batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    z, y, _ = tensors(batch)
    assert torch.equal(margin(z, y) > 0, predictions(z) != y)


class TestTop:
    @settings(deadline=None)
    @given(batch=batches(), top=st.integers(1, 9))
    def test_the_margin_is_that_to_the_class_that_must_fall_behind(
        self, batch: tuple[np.ndarray, np.ndarray, np.ndarray], top: int
    ) -> None:
        z, y, target = tensors(batch)
        top = min(top, z.shape[1] - 1)
        rows = zip(*batch, strict=True)
        by_hand = [sorted(np.delete(row, label), reverse=True)[top - 1] - row[label] for row, label, _ in rows]
        np.testing.assert_array_equal(margin(z, y, top=top), by_hand)
        assert torch.equal(margin(z, y, target, top=top), margin(z, y, target))

    @settings(deadline=None)
    @given(batch=batches(), top=st.integers(1, 9))
    def test_the_label_is_the_answer_while_it_is_among_the_likeliest(
        self, batch: tuple[np.ndarray, np.ndarray, np.ndarray], top: int
    ) -> None:
        z, y, _ = tensors(batch)
        top = min(top, z.shape[1] - 1)
        given_ = answers(z, y, top)
        among = (z.topk(top, dim=1).indices == y[:, None]).any(1)
        assert torch.equal(given_, torch.where(among, y, predictions(z)))
        assert torch.equal(margin(z, y, top=top) > 0, given_ != y)

    def test_of_tied_classes_the_first_goes_before(self) -> None:
        z, y = torch.tensor([[1.0, 3.0, 3.0, 3.0]]).expand(4, 4), torch.arange(4)
        assert answers(z, y).tolist() == [1, 1, 1, 1]
        assert answers(z, y, 2).tolist() == [1, 1, 2, 1]
        assert answers(z, y, 3).tolist() == [1, 1, 2, 3]

    @pytest.mark.parametrize("top", [-1, 0, 4, 5])
    def test_all_or_none_of_the_classes_are_no_choice(self, top: int) -> None:
        z, y = torch.zeros(2, 4), torch.tensor([0, 1])
        for call in (answers, lambda z, y, top: margin(z, y, top=top)):
            with pytest.raises(AuditError, match=rf"top is {top}; expected 1 .* to 3: the model has 4 classes"):
                call(z, y, top)


def test_a_prediction_is_the_first_of_the_largest_logits() -> None:
    assert predictions(torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [1, 0]


@every_loss
def test_the_number_type_is_kept_and_an_empty_batch_passes(loss: Loss) -> None:
    z, y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    for dtype in (torch.float32, torch.float64):
        assert loss(z.to(dtype), y).dtype == dtype
        assert loss(z[:0].to(dtype), y[:0]).shape == loss(z[:0].to(dtype), y[:0], y[:0]).shape == (0,)
