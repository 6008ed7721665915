"""Every penalty: values computed by hand, gradients, and one battery that all terms pass."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.errors import RecipeError
from unmask.training import penalties
from unmask.training.penalties import (
    Batch,
    Blend,
    Term,
    adversarial_logit_pairing,
    boosted_cross_entropy,
    clean_logit_pairing,
    cross_entropy,
    divergence_pairing,
    frobenius_logit_squeezing,
    logit_squeezing,
    misclassified_divergence,
)

CLASSES = 3
CLEAN = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0], [1.0, 1.0, 1.0], [-1.5, 0.0, 4.0]])
ADVERSARIAL = np.array([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [2.0, 1.0, -4.0], [0.5, 0.5, 0.5]])
LABELS = np.array([0, 1, 2, 1])


def batch_of(clean: object = CLEAN, adversarial: object = ADVERSARIAL, labels: object = LABELS) -> Batch:
    """Return a batch in float64 with these logits; its images are never read by a term."""
    y = torch.as_tensor(labels)
    x = torch.zeros(len(y), 1, 2, 2, dtype=torch.float64)
    halves = [None if z is None else torch.as_tensor(z, dtype=torch.float64) for z in (clean, adversarial)]
    return Batch(x, y, halves[0], x, halves[1])


def value(term: Term, batch: Batch | None = None) -> float:
    return float(term.function(batch_of() if batch is None else batch))


def log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def smoothed_cross_entropy(z: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -(targets * log_softmax(z)).sum(1)


ONE_HOT = np.eye(CLASSES)[LABELS]


class TestCrossEntropy:
    @pytest.mark.parametrize(("on", "z"), [("clean", CLEAN), ("adversarial", ADVERSARIAL)])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_it_is_the_mean_or_sum_of_minus_log_p(self, on, z, reduction) -> None:
        expected = getattr(smoothed_cross_entropy(z, ONE_HOT), reduction)()
        assert value(cross_entropy(on=on, reduction=reduction)) == pytest.approx(expected, abs=1e-12)

    def test_all_classes_moves_the_target_towards_the_uniform_distribution(self) -> None:
        targets = ONE_HOT - 0.3 * (ONE_HOT - 1 / CLASSES)
        expected = smoothed_cross_entropy(CLEAN, targets).mean()
        assert value(cross_entropy(label_smoothing=0.3)) == pytest.approx(expected, abs=1e-12)

    def test_wrong_classes_shares_the_mass_among_the_wrong_ones_only(self) -> None:
        targets = np.where(ONE_HOT == 1, 1 - 0.3, 0.3 / (CLASSES - 1))
        expected = smoothed_cross_entropy(CLEAN, targets).mean()
        term = cross_entropy(label_smoothing=0.3, convention="wrong_classes")
        assert value(term) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("alpha", [0.0, 0.2, 0.75, 1.0])
    def test_the_conventions_agree_at_delta_alpha_times_1_minus_1_over_k(self, alpha: float) -> None:
        wrong = cross_entropy(label_smoothing=alpha * (1 - 1 / CLASSES), convention="wrong_classes")
        assert value(wrong) == pytest.approx(value(cross_entropy(label_smoothing=alpha)), abs=1e-12)

    def test_the_conventions_differ_at_the_same_amount(self) -> None:
        wrong = cross_entropy(label_smoothing=0.3, convention="wrong_classes")
        assert abs(value(wrong) - value(cross_entropy(label_smoothing=0.3))) > 1e-3

    @pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
    def test_an_amount_outside_0_to_1_is_refused(self, amount: float) -> None:
        with pytest.raises(RecipeError, match=r"label smoothing is .* between 0 and 1"):
            cross_entropy(label_smoothing=amount)

    def test_an_amount_that_prefers_wrong_classes_is_refused(self) -> None:
        term = cross_entropy(label_smoothing=0.7, convention="wrong_classes")
        with pytest.raises(RecipeError, match=r"0\.7 over the wrong classes.* at most 0\.6667 for 3 classes"):
            value(term)


class TestSqueezing:
    def test_it_is_the_mean_of_unsquared_norms(self) -> None:
        expected = np.sqrt((CLEAN**2).sum(1)).mean()
        assert value(logit_squeezing(1.0)) == pytest.approx(expected, abs=1e-12)

    def test_frobenius_is_the_unsquared_norm_of_the_whole_batch(self) -> None:
        assert value(frobenius_logit_squeezing(1.0)) == pytest.approx(np.sqrt((CLEAN**2).sum()), abs=1e-12)

    @pytest.mark.parametrize("make", [logit_squeezing, frobenius_logit_squeezing])
    def test_it_can_squeeze_the_adversarial_half_under_a_name_of_its_own(self, make) -> None:
        clean, adversarial = make(1.0), make(1.0, on="adversarial")
        assert value(adversarial) == pytest.approx(value(clean, batch_of(clean=ADVERSARIAL)), abs=1e-12)
        assert adversarial.name == f"adversarial_{clean.name}"

    def test_one_zero_row_does_not_spoil_the_gradient_of_the_others(self) -> None:
        logits = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        logit_squeezing(1.0).function(Batch(logits, torch.zeros(2), logits)).backward()
        torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0], [0.3, 0.4]]))

    @pytest.mark.parametrize(("count", "threshold"), [(50, 6.7082), (128, 10.7331)])
    def test_all_zero_logits_become_optimal_at_the_published_threshold(self, count: int, threshold: float) -> None:
        """Z = 0 minimises summed CE + beta ||Z||_F as soon as beta reaches the norm of CE's gradient there."""
        y = torch.arange(count) % 10
        zero = torch.zeros(count, 10, dtype=torch.float64, requires_grad=True)
        term = cross_entropy(reduction="sum")
        (slope,) = torch.autograd.grad(term.function(Batch(zero, y, zero)), zero)
        assert slope.norm().item() == pytest.approx(np.sqrt(count * (1 - 1 / 10)), abs=1e-9)
        assert slope.norm().item() == pytest.approx(threshold, abs=1e-4)

        @torch.no_grad()
        def total(logits: Tensor, beta: float) -> float:
            batch = Batch(logits, y, logits)
            return float(term.function(batch) + beta * frobenius_logit_squeezing(beta).function(batch))

        downhill = -1e-3 * slope / slope.norm()
        assert total(downhill, threshold - 0.01) < total(zero, threshold - 0.01)
        generator = torch.Generator().manual_seed(0)
        directions = [torch.randn(count, 10, dtype=torch.float64, generator=generator) for _ in range(20)]
        for direction in (downhill, *directions):
            moved = 1e-3 * direction / direction.norm()
            assert total(moved, threshold + 0.01) > total(zero, threshold + 0.01)


class TestPairing:
    def test_clean_pairing_compares_the_first_half_with_the_second(self) -> None:
        expected = ((CLEAN[:2] - CLEAN[2:]) ** 2).mean()
        assert value(clean_logit_pairing(1.0)) == pytest.approx(expected, abs=1e-12)

    def test_an_odd_last_example_is_left_out(self) -> None:
        odd = batch_of(np.vstack([CLEAN, [[90.0, -90.0, 5.0]]]), None, [0, 1, 2, 1, 0])
        assert value(clean_logit_pairing(1.0), odd) == pytest.approx(value(clean_logit_pairing(1.0)), abs=1e-12)

    def test_a_single_example_has_no_pair_and_gives_0_with_a_zero_gradient(self) -> None:
        logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        loss = clean_logit_pairing(1.0).function(Batch(logits, torch.tensor([0]), logits))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()

    def test_adversarial_pairing_compares_each_image_with_its_own(self) -> None:
        expected = ((CLEAN - ADVERSARIAL) ** 2).mean()
        assert value(adversarial_logit_pairing(1.0)) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("make", [clean_logit_pairing, adversarial_logit_pairing])
    @pytest.mark.parametrize("distance", ["l2", "l1", "huber"])
    def test_sum_over_classes_is_k_times_the_mean(self, make, distance) -> None:
        mean, total = make(1.0, distance=distance), make(1.0, distance=distance, over_classes="sum")
        assert value(total) == pytest.approx(CLASSES * value(mean), rel=1e-12)

    def test_l1_is_the_absolute_difference(self) -> None:
        expected = np.abs(CLEAN - ADVERSARIAL).mean()
        assert value(adversarial_logit_pairing(1.0, distance="l1")) == pytest.approx(expected, abs=1e-12)

    def test_huber_is_quadratic_up_to_1_and_linear_beyond(self) -> None:
        gap = np.abs(CLEAN - ADVERSARIAL)
        assert gap.min() < 1 < gap.max()
        expected = np.where(gap <= 1, gap**2 / 2, gap - 0.5).mean()
        assert value(adversarial_logit_pairing(1.0, distance="huber")) == pytest.approx(expected, abs=1e-12)

    def test_gradients_flow_through_both_sides_of_adversarial_pairing(self) -> None:
        sides = [torch.tensor(z, requires_grad=True) for z in (CLEAN, ADVERSARIAL)]
        adversarial_logit_pairing(1.0).function(
            Batch(sides[0], torch.tensor(LABELS), sides[0], None, sides[1])
        ).backward()
        clean, adversarial = (side.grad for side in sides)
        assert clean is not None
        assert adversarial is not None
        torch.testing.assert_close(clean, torch.tensor(2 * (CLEAN - ADVERSARIAL) / CLEAN.size))
        torch.testing.assert_close(adversarial, -clean)

    def test_gradients_flow_through_both_sides_of_clean_pairing(self) -> None:
        logits = torch.tensor(CLEAN, requires_grad=True)
        clean_logit_pairing(1.0).function(Batch(logits, torch.tensor(LABELS), logits)).backward()
        slope = torch.tensor(2 * (CLEAN[:2] - CLEAN[2:]) / CLEAN[:2].size)
        torch.testing.assert_close(logits.grad, torch.cat([slope, -slope]))


class TestDivergences:
    P, Q = (np.exp(log_softmax(z)) for z in (CLEAN, ADVERSARIAL))

    def test_divergence_pairing_is_kl_from_clean_to_adversarial(self) -> None:
        expected = (self.P * np.log(self.P / self.Q)).sum(1).mean()
        for constant in (False, True):
            assert value(divergence_pairing(1.0, constant_clean=constant)) == pytest.approx(expected, abs=1e-12)

    def test_a_constant_clean_half_gets_no_gradient(self) -> None:
        clean, adversarial = (torch.tensor(z, requires_grad=True) for z in (CLEAN, ADVERSARIAL))
        batch = Batch(clean, torch.tensor(LABELS), clean, clean, adversarial)
        divergence_pairing(1.0, constant_clean=True).function(batch).backward()
        assert clean.grad is None
        assert adversarial.grad is not None

    def test_mart_weighs_the_divergence_by_doubt_and_boosts_the_margin(self) -> None:
        rows = np.arange(len(LABELS))
        doubt = 1 - self.P[rows, LABELS]
        expected = ((self.P * np.log(self.P / self.Q)).sum(1) * doubt).mean()
        assert value(misclassified_divergence(1.0)) == pytest.approx(expected, abs=1e-12)
        rival = np.where(ONE_HOT == 1, -1, self.Q).max(1)
        boosted = (-np.log(self.Q[rows, LABELS]) - np.log(1 - rival)).mean()
        assert value(boosted_cross_entropy()) == pytest.approx(boosted, abs=1e-12)


class TestMixed:
    def test_mixed_images_count_for_both_labels_by_their_shares(self) -> None:
        partner = torch.tensor(LABELS[::-1].copy())
        batch = replace(batch_of(), blend=Blend(partner, 0.7))
        both = [value(cross_entropy(), batch_of(labels=labels)) for labels in (LABELS, LABELS[::-1].copy())]
        assert value(cross_entropy(), batch) == pytest.approx(0.7 * both[0] + 0.3 * both[1], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cross_entropy(convention="wrong_class"), "no convention.*Did you mean 'wrong_classes'"),
        (lambda: cross_entropy(reduction="none"), "no reduction 'none'.*mean, sum"),
        (lambda: cross_entropy(on="adversarials"), "no half of the batch.*Did you mean 'adversarial'"),
        (lambda: logit_squeezing(1.0, on="dirty"), "no half of the batch 'dirty'"),
        (lambda: clean_logit_pairing(1.0, distance="hubber"), "no distance.*Did you mean 'huber'"),
        (lambda: adversarial_logit_pairing(1.0, over_classes="median"), "no reduction over classes 'median'"),
    ],
)
def test_an_unknown_setting_is_refused_when_the_term_is_made(make, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


@dataclass(frozen=True)
class Row:
    """A term, logits (clean, adversarial) at which it is smallest, and its value there."""

    make: Callable[[], Term]
    best: tuple[np.ndarray, np.ndarray]
    least: float = 0.0


ZERO = (np.zeros_like(CLEAN), np.zeros_like(CLEAN))
CONFIDENT = (100 * ONE_HOT, 100 * ONE_HOT)
EQUAL_HALVES = (np.vstack([CLEAN[:2], CLEAN[:2]]), ADVERSARIAL)
EQUAL_SIDES = (CLEAN, CLEAN)
SMOOTH = np.where(ONE_HOT == 1, 0.8, 0.1)  # delta 0.2 over the two wrong classes, alpha 0.3 over all three
ENTROPY = -(0.8 * log(0.8) + 0.2 * log(0.1))

BATTERY = {
    "cross-entropy": Row(cross_entropy, CONFIDENT),
    "summed cross-entropy": Row(lambda: cross_entropy(reduction="sum"), CONFIDENT),
    "adversarial cross-entropy": Row(lambda: cross_entropy(on="adversarial"), CONFIDENT),
    "smoothed": Row(lambda: cross_entropy(label_smoothing=0.3), (np.log(SMOOTH), ADVERSARIAL), ENTROPY),
    "smoothed, wrong classes": Row(
        lambda: cross_entropy(label_smoothing=0.2, convention="wrong_classes"), (np.log(SMOOTH), ADVERSARIAL), ENTROPY
    ),
    "squeezing": Row(lambda: logit_squeezing(0.5), ZERO),
    "adversarial squeezing": Row(lambda: logit_squeezing(0.5, on="adversarial"), ZERO),
    "frobenius": Row(lambda: frobenius_logit_squeezing(0.5), ZERO),
    "adversarial frobenius": Row(lambda: frobenius_logit_squeezing(0.5, on="adversarial"), ZERO),
    "clean pairing": Row(lambda: clean_logit_pairing(0.5), EQUAL_HALVES),
    "clean pairing, l1": Row(lambda: clean_logit_pairing(0.5, distance="l1"), EQUAL_HALVES),
    "clean pairing, huber": Row(lambda: clean_logit_pairing(0.5, distance="huber"), EQUAL_HALVES),
    "adversarial pairing": Row(lambda: adversarial_logit_pairing(0.5), EQUAL_SIDES),
    "adversarial pairing, sum": Row(lambda: adversarial_logit_pairing(0.5, over_classes="sum"), EQUAL_SIDES),
    "adversarial pairing, l1": Row(lambda: adversarial_logit_pairing(0.5, distance="l1"), EQUAL_SIDES),
    "adversarial pairing, huber": Row(lambda: adversarial_logit_pairing(0.5, distance="huber"), EQUAL_SIDES),
    "divergence": Row(lambda: divergence_pairing(6.0), EQUAL_SIDES),
    "boosted cross-entropy": Row(boosted_cross_entropy, CONFIDENT),
    "misclassified divergence": Row(lambda: misclassified_divergence(5.0), EQUAL_SIDES),
}
BEYOND_LOGITS = {"feature_pairing", "gradient_alignment"}  # in test_defences.py
every_row = pytest.mark.parametrize("row", BATTERY.values(), ids=BATTERY.keys())


def leaves(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """Return the batch with logits that gradients can be taken by."""
    assert batch.logits is not None
    assert batch.logits_adv is not None
    halves = [half.clone().requires_grad_() for half in (batch.logits, batch.logits_adv)]
    return Batch(batch.x, batch.y, halves[0], batch.x_adv, halves[1]), halves


def gradients(term: Term, batch: Batch) -> list[Tensor]:
    """Return the gradients by the halves that the term says it reads, and check that it reads no other."""
    posed, halves = leaves(batch)
    found = torch.autograd.grad(term.function(posed), halves, allow_unused=True)
    by_half = dict(zip(("clean", "adversarial"), found, strict=True))
    assert {half for half, gradient in by_half.items() if gradient is not None} == set(term.needs)
    return [gradient for gradient in found if gradient is not None]


def test_every_term_is_in_the_battery() -> None:
    makers = {
        name
        for name, function in inspect.getmembers(penalties, inspect.isfunction)
        if inspect.signature(function).return_annotation == "Term"
    }
    assert len(makers) >= 5
    assert makers - BEYOND_LOGITS <= {row.make().name for row in BATTERY.values()}


@every_row
class TestBattery:
    def test_scalar_finite_in_the_precision_of_the_logits(self, row: Row) -> None:
        loss = row.make().function(batch_of())
        assert loss.shape == ()
        assert loss.dtype == torch.float64
        assert loss.isfinite()

    def test_gradient_is_that_of_finite_differences(self, row: Row) -> None:
        """Away from ties, where the runner-up class is not unique."""
        term, apart = row.make(), 0.01 * np.arange(CLASSES)
        _, halves = leaves(batch_of(CLEAN + apart, ADVERSARIAL + apart))
        y = torch.tensor(LABELS)
        assert torch.autograd.gradcheck(lambda z, z_adv: term.function(Batch(z, y, z, z, z_adv)), halves)

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4])
    def test_value_and_gradient_are_finite_for_tiny_and_huge_logits(self, row: Row, scale: float) -> None:
        batch = batch_of(scale * CLEAN, scale * ADVERSARIAL)
        assert np.isfinite(value(row.make(), batch))
        assert all(gradient.isfinite().all() for gradient in gradients(row.make(), batch))

    def test_one_image_is_enough(self, row: Row) -> None:
        batch = batch_of(CLEAN[:1], ADVERSARIAL[:1], LABELS[:1])
        assert np.isfinite(value(row.make(), batch))
        assert all(gradient.isfinite().all() for gradient in gradients(row.make(), batch))

    def test_smallest_where_it_must_be(self, row: Row) -> None:
        term = row.make()
        assert value(term, batch_of(*row.best)) == pytest.approx(row.least, abs=1e-12)
        assert value(term) > row.least + 1e-3

    def test_it_reads_the_halves_that_it_names_and_no_other(self, row: Row) -> None:
        term = row.make()
        own = {"clean": CLEAN, "adversarial": ADVERSARIAL}
        kept = batch_of(*(z if half in term.needs else None for half, z in own.items()))
        assert value(term, kept) == value(term)
        for half in term.needs:
            lacking = batch_of(*(None if name == half else z for name, z in own.items()))
            with pytest.raises(RecipeError, match=f"needs the {half} logits"):
                term.function(lacking)

    def test_its_weight_is_not_in_its_value_but_in_its_description(self, row: Row) -> None:
        term = row.make()
        described = json.loads(json.dumps(term.describe()))
        assert described["name"] == term.name
        assert described["weight"] == term.weight
        halved = Term(term.name, term.weight / 2, term.function, term.needs)
        assert value(halved) == value(term)


def test_descriptions_tell_all_terms_apart() -> None:
    described = [json.dumps(row.make().describe(), sort_keys=True) for row in BATTERY.values()]
    assert len(set(described)) == len(described)
