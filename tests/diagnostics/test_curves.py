"""Curves of accuracy against steps, restarts and eps, on models where PGD's outcome is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from counted import Counted, refused, shelf, two_classes
from torch import Tensor

import unmask
from unmask.diagnostics.eps_curve import eps_curve
from unmask.diagnostics.finding import Finding
from unmask.diagnostics.restart_curve import restart_curve
from unmask.diagnostics.sample import Sample
from unmask.diagnostics.step_curve import step_curve
from unmask.errors import AuditError

EPS, PIXELS = 0.1, 9
CURVES: dict[str, Callable[..., Finding]] = {
    "steps": lambda sample, **settings: step_curve(sample, steps=(1, 3, 8), step_size=0.013, **settings),
    "restarts": lambda sample, **settings: restart_curve(sample, restarts=(1, 2, 4), steps=3, **settings),
    "eps": lambda sample, **settings: eps_curve(sample, steps=5, **settings),
    "eps, independent": lambda sample, **settings: eps_curve(sample, steps=5, restarts=2, independent=True, **settings),
}


WEIGHTS = torch.randn(PIXELS, generator=torch.Generator().manual_seed(1))
REACH = float(WEIGHTS.abs().sum())


def linear(count: int = 40, *, wrong: int = 4, low: float = 0.0, high: float = 1.0) -> tuple[Counted, Sample, Tensor]:
    """Return images whose distances to an error run from 0 to twice eps, and these; `wrong` have the wrong label."""
    distances = 2 * EPS * (torch.arange(count) + 0.5) / count
    x = 0.5 + (REACH * distances / WEIGHTS.square().sum())[:, None] * WEIGHTS
    y = torch.zeros(count, dtype=torch.int64)
    y[:wrong] = 1
    model = two_classes(lambda flat: (flat - 0.5) @ WEIGHTS)
    return model, Sample.of(model, x.view(count, 1, 3, 3), y, unmask.Linf(EPS, low, high), seed=5), distances


def half_masked(count: int = 40) -> tuple[Counted, Sample]:
    """Return a model on which PGD breaks an image from starts brighter than it, and stands still from darker ones."""
    model = two_classes(lambda flat: 1 - 1000 * (flat.mean(1) - 0.5).clamp(min=0))
    x, y = torch.full((count, 1, 3, 3), 0.5), torch.zeros(count, dtype=torch.int64)
    return model, Sample.of(model, x, y, unmask.Linf(EPS), seed=7)


def bright(sample: Sample, restart: int) -> Tensor:
    """Say from which images the given restart of `restart_curve` begins at a brighter point."""
    start = sample.threat.uniform(sample.x, sample.child("restart_curve", restart).streams)
    return (start - sample.x).flatten(1).mean(1) > 0


# ------------------------------------------------------------------------------------------------------ every curve


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_passes_are_counted_exactly(curve: Callable[..., Finding]) -> None:
    model, sample, _ = linear()
    finding = curve(sample, batch_size=7)
    assert (finding.forwards, finding.backwards) == (model.forwards, model.backwards)
    assert finding.backwards > 0 and model.largest <= 7


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_second_run_computes_nothing_and_finds_the_same(curve: Callable[..., Finding]) -> None:
    _, sample, _ = linear()
    _, keep = shelf()
    told: list[tuple[int, int]] = []
    first = curve(sample, keep=keep, batch_size=16)
    again = curve(
        replace(sample, model=refused), keep=keep, batch_size=16, watch=lambda done, of: told.append((done, of))
    )
    assert first == again
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    assert json.loads(json.dumps(first.evidence, allow_nan=False)) == first.evidence


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_batch_size_changes_no_accuracy(curve: Callable[..., Finding]) -> None:
    _, sample, _ = linear()
    small, large = curve(sample, batch_size=3), curve(sample, batch_size=300)
    assert replace(small, backwards=0) == replace(large, backwards=0)
    assert len(set(large.evidence["accuracy"])) > 1


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_without_survivors_nothing_is_attacked(curve: Callable[..., Finding]) -> None:
    model, sample, _ = linear(5, wrong=5)
    finding = curve(sample)
    assert set(finding.evidence["accuracy"]) == {0.0} and finding.status == "ok"
    assert (finding.forwards, finding.backwards) == (5, 0) == (model.forwards, model.backwards)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_one_image(curve: Callable[..., Finding]) -> None:
    _, sample, _ = linear()
    finding = curve(sample.select(torch.tensor([39])))
    assert finding.evidence["n"] == 1 and finding.evidence["accuracy"][0] == 1.0


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_unusable_samples_and_batches_are_refused(curve: Callable[..., Finding]) -> None:
    _, sample, _ = linear()
    with pytest.raises(AuditError, match="no images"):
        curve(sample.first(0))
    with pytest.raises(AuditError, match="batch_size is 0"):
        curve(sample, batch_size=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda sample: step_curve(sample, steps=[]), "most_steps is 0; expected 2 or more"),
        (lambda sample: step_curve(sample, steps=[0, 3]), "steps is 0; expected 1 or more"),
        (lambda sample: step_curve(sample, step_size=-0.1), "Step size in pixels: got -0.1"),
        (lambda sample: step_curve(sample, loss="margins"), "Did you mean 'margin'"),
        (lambda sample: restart_curve(sample, restarts=[1]), "most_restarts is 1; expected 2 or more"),
        (lambda sample: restart_curve(sample, steps=0), "steps is 0"),
        (lambda sample: restart_curve(sample, loss="ce"), "no loss 'ce'"),
        (lambda sample: eps_curve(sample, shares=[0.5, -1.0]), "Shares of eps: got 0.5, -1"),
        (lambda sample: eps_curve(sample, restarts=0), "restarts is 0"),
    ],
)
def test_unusable_settings_are_refused(call: Callable[[Sample], Finding], message: str) -> None:
    _, sample, _ = linear()
    with pytest.raises(AuditError, match=message):
        call(sample)


# ------------------------------------------------------------------------------------------------------------ steps


def test_steps_break_what_the_closed_form_says() -> None:
    model, sample, _ = linear()
    counts, size = (1, 2, 4, 7, 32), 0.013
    start = sample.threat.uniform(sample.x, sample.child("step_curve").streams) - sample.x
    finding = step_curve(sample, steps=counts, step_size=size)
    alive, left = sample.y == 0, {}
    for step in range(counts[-1] + 1):
        moved = (start.flatten(1) - step * size * WEIGHTS.sign()).clamp(-EPS, EPS)
        alive &= model.logits(sample.x.flatten(1) + moved)[:, 0] >= 0
        left[step] = int(alive.sum()) / 40
    assert finding.evidence["accuracy"] == [left[count] for count in counts]
    assert finding.evidence["steps"] == list(counts) and finding.evidence["step_size"] == size
    # At the end every image nearer than eps is broken.
    assert finding.evidence["accuracy"][-1] == 0.5 and finding.status == "ok"


def test_steps_that_still_break_images_at_the_end_warn() -> None:
    _, sample, _ = linear()
    finding = step_curve(sample, steps=(4, 8), step_size=0.01)
    before, after = finding.evidence["accuracy"]
    assert before - after > 0.05 and finding.status == "warn"
    assert "not converged" in finding.summary and "more steps" in finding.next_step


def test_the_usual_step_size_is_that_of_40_steps() -> None:
    _, sample, _ = linear()
    assert step_curve(sample, steps=(2, 5)).evidence["step_size"] == pytest.approx(EPS / 30)


def test_the_loss_that_is_climbed_is_the_one_named() -> None:
    model = two_classes(lambda flat: 400 + 10000 * (flat.mean(1) - 0.5))
    x, y = torch.full((6, 1, 3, 3), 0.5), torch.zeros(6, dtype=torch.int64)
    sample = Sample.of(model, x, y, unmask.Linf(EPS))
    # The cross-entropy of a gap of hundreds has no gradient in single precision; the margin has.
    assert step_curve(sample, steps=(1, 30), step_size=0.02).evidence["accuracy"][-1] == 1.0
    climbed = step_curve(sample, steps=(1, 30), step_size=0.02, loss="margin")
    assert climbed.evidence["accuracy"][-1] == 0.0 and "margin" in climbed.evidence["attack"]


# --------------------------------------------------------------------------------------------------------- restarts


def test_an_image_falls_at_the_first_restart_that_begins_well() -> None:
    _, sample = half_masked()
    finding = restart_curve(sample, restarts=(1, 2, 3, 8), steps=4)
    lucky = torch.stack([bright(sample, restart) for restart in range(8)])
    expected = [1 - int(lucky[:count].any(0).sum()) / 40 for count in (1, 2, 3, 8)]
    assert finding.evidence["accuracy"] == pytest.approx(expected)
    assert 0.2 < expected[0] < 0.8 and expected[1] < expected[0]
    assert finding.evidence["restarts"] == [1, 2, 3, 8] and finding.status == "ok"


def test_restarts_that_still_break_images_at_the_end_warn() -> None:
    _, sample = half_masked()
    finding = restart_curve(sample, restarts=(1, 2), steps=4)
    assert finding.status == "warn" and "more restarts" in finding.next_step


def test_more_restarts_go_on_where_fewer_ended() -> None:
    model, sample = half_masked()
    _, keep = shelf()
    restart_curve(sample, restarts=(2,), steps=4, keep=keep)
    model.forwards = 0
    finding = restart_curve(sample, restarts=(4,), steps=4, keep=keep)
    assert finding == restart_curve(sample, restarts=(4,), steps=4)
    assert 0 < model.forwards - finding.forwards < finding.forwards / 2


# -------------------------------------------------------------------------------------------------------------- eps


@pytest.mark.parametrize("independent", [False, True])
def test_each_eps_breaks_the_images_nearer_than_it(independent: bool) -> None:
    _, sample, distances = linear(low=-10.0, high=10.0)
    finding = eps_curve(sample, independent=independent)
    sizes = [0.0, *(share * EPS for share in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)), 20.0]
    right = sample.y == 0
    expected = [int((right & (distances > size)).sum()) / 40 for size in sizes]
    assert finding.evidence["eps"] == pytest.approx(sizes)
    assert finding.evidence["accuracy"] == expected and expected[0] == 0.9 and expected[-1] == 0.0
    assert finding.status == "ok" and finding.evidence["largest_rise"] == 0
    assert finding.evidence["independent"] is independent


def plateau(flat: Tensor) -> Tensor:
    """Return a margin that falls within 0.15 of the image, cannot be climbed beyond, and is negative far away."""
    far = (flat.mean(1) - 0.5).abs()
    return torch.where(far < 0.15, 1 - far.square() / 0.005, torch.where(far < 0.45, 1.0, -1.0))


def test_an_attack_that_fails_at_a_larger_eps_warns() -> None:
    model = two_classes(plateau)
    x, y = torch.full((10, 1, 32, 32), 0.5), torch.zeros(10, dtype=torch.int64)
    sample = Sample.of(model, x, y, unmask.Linf(0.1))
    finding = eps_curve(sample, shares=(1.0, 4.0), independent=True)
    assert finding.evidence["accuracy"] == [1.0, 0.0, 1.0, 0.0]
    assert finding.evidence["largest_rise"] == 1.0 and finding.status == "warn"
    assert "larger eps" in finding.summary and "upper bounds" in finding.next_step
    together = eps_curve(sample, shares=(1.0, 4.0))
    assert together.evidence["accuracy"] == [1.0, 0.0, 0.0, 0.0] and together.status == "ok"


def test_an_unbounded_attack_that_breaks_nothing_fails() -> None:
    model = two_classes(lambda flat: 1 + 0 * flat.mean(1))
    sample = Sample.of(model, torch.full((4, 1, 3, 3), 0.5), torch.zeros(4, dtype=torch.int64), unmask.L2(0.5))
    finding = eps_curve(sample)
    assert finding.status == "fail" and finding.evidence["accuracy"][-1] == 1.0
    assert finding.evidence["eps"][-1] == 3.0
