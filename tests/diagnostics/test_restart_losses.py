"""Final losses over restarts, on models where each start's end is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from counted import Counted, refused, shelf
from torch import Tensor

import unmask
from unmask.diagnostics.restart_losses import restart_losses
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError
from unmask.streams import Streams

EPS = 0.1


class Masked(Counted):
    """Two classes; PGD breaks an image from starts brighter than it by more than a threshold, and none from others.

    The threshold is the image's own, in its first pixel, which no gradient moves.
    """

    def __init__(self, thresholds: list[float]) -> None:
        self.thresholds = torch.tensor(thresholds)
        super().__init__(self.answer)

    def answer(self, flat: Tensor) -> Tensor:
        which = (flat[:, -1].detach() * 10).round().long() - 2
        lift = flat[:, :-1].mean(1) - 0.5 - self.thresholds[which]
        return torch.stack([1 - 1000 * lift.clamp(min=0), torch.zeros_like(lift)], 1)


def masked(thresholds: list[float]) -> tuple[Masked, Sample]:
    """Return an image per threshold; its last pixel, which eps moves too little to matter, says which it is."""
    x = torch.full((len(thresholds), 1, 3, 3), 0.5)
    x.flatten(1)[:, -1] = 0.2 + 0.1 * torch.arange(len(thresholds))
    model = Masked(thresholds)
    y, ids = torch.zeros(len(thresholds), dtype=torch.int64), range(11, 11 + len(thresholds))
    return model, Sample.of(model, x, y, unmask.Linf(0.04), ids=ids, seed=2)


@pytest.fixture
def four() -> tuple[Masked, Sample]:
    # Starts lift the mean by at most 0.04; about half of them by 0 or more, one in a hundred by 0.02 or more.
    return masked([-0.005, 0.006, 0.017, 0.05])


def lifts(sample: Sample, restarts: int) -> Tensor:
    """Return how much each start (images, restarts) lifts the mean of the pixels that count."""
    starts = [
        sample.threat.uniform(sample.x, sample.streams.child("restart_losses").child("restart", restart))
        for restart in range(restarts)
    ]
    return torch.stack([start.flatten(1)[:, :-1].mean(1) - 0.5 for start in starts], 1)


def test_each_start_ends_where_it_must(four: tuple[Masked, Sample]) -> None:
    model, sample = four
    found = lifts(sample, 100) > model.thresholds[:, None]
    finding = restart_losses(sample, restarts=100, steps=3)
    losses = torch.tensor(finding.evidence["losses"])
    assert torch.equal(losses > 1, found)
    # Where the gradient is zero the loss stays that of the image.
    assert losses[~found].numpy() == pytest.approx(math.log(1 + math.exp(-1)))
    assert finding.evidence["kinds"] == [
        "easily found",
        "depends on the restart",
        "many restarts needed",
        "not found",
    ]
    assert finding.status == "warn" and "On 2 of 4 images" in finding.summary
    assert finding.evidence["guarantee"] == pytest.approx(math.log(2))
    assert finding.evidence["ids"] == [11, 12, 13, 14]


def test_settings_are_recorded() -> None:
    _, sample = masked([0.05])
    evidence = restart_losses(sample, restarts=2, steps=5).evidence
    assert (evidence["restarts"], evidence["steps"]) == (2, 5) and evidence["step_size"] == pytest.approx(0.04 * 4 / 15)
    assert restart_losses(sample, restarts=2, steps=5, step_size=0.03).evidence["step_size"] == 0.03


def test_linear_models_end_at_the_corner_from_every_start() -> None:
    weights = torch.randn(9, generator=torch.Generator().manual_seed(0))

    def linear(images: Tensor) -> Tensor:
        first = 3 + (images.flatten(1) - 0.5) @ weights
        return torch.stack([first, torch.zeros_like(first)], 1)

    x = torch.full((1, 1, 3, 3), 0.5)
    sample = Sample.of(linear, x, torch.zeros(1, dtype=torch.int64), unmask.Linf(EPS))
    finding = restart_losses(sample, restarts=20, steps=40, step_size=EPS / 10)
    corner = 3 - EPS * weights.abs().sum().item()
    assert finding.evidence["losses"][0] == pytest.approx([math.log1p(math.exp(-corner))] * 20, abs=1e-6)
    assert finding.evidence["kinds"] == ["not found"] and finding.status == "ok" and finding.next_step == ""


def test_a_thousand_restarts_run_in_bounded_batches_and_are_counted(four: tuple[Masked, Sample]) -> None:
    model, sample = four
    finding = restart_losses(sample, restarts=1000, steps=2, batch_size=128)
    assert model.largest == 128
    assert (finding.forwards, finding.backwards) == (model.forwards, model.backwards) == (4 * 1000 * 3, 4 * 1000 * 2)


def test_the_batch_size_changes_nothing(four: tuple[Masked, Sample]) -> None:
    _, sample = four
    assert restart_losses(sample, restarts=9, batch_size=2) == restart_losses(sample, restarts=9, batch_size=9)


def test_an_image_keeps_its_losses_in_other_company(four: tuple[Masked, Sample]) -> None:
    _, sample = four
    alone = restart_losses(sample.select(torch.tensor([2])), restarts=9)
    together = restart_losses(sample, restarts=9)
    assert alone.evidence["losses"] == [together.evidence["losses"][2]] and alone.evidence["ids"] == [13]


def test_images_are_kept_one_by_one(four: tuple[Masked, Sample]) -> None:
    model, sample = four
    parts, keep = shelf()
    told: list[tuple[int, int]] = []
    first = restart_losses(sample, restarts=6, keep=keep)
    again = restart_losses(
        replace(sample, model=refused), restarts=6, keep=keep, watch=lambda done, of: told.append((done, of))
    )
    assert first == again and told == [(1, 4), (2, 4), (3, 4), (4, 4)] and len(parts) == 4
    assert json.loads(json.dumps(first.evidence, allow_nan=False)) == first.evidence
    del parts[next(name for name in parts if "image 12" in name)]
    model.forwards = 0
    assert restart_losses(sample, restarts=6, keep=keep) == first
    assert model.forwards == first.forwards / 4


def test_a_model_without_gradients_costs_no_backward_passes() -> None:
    sample = Sample.of(
        lambda images: torch.tensor([[2.0, 0.0]]).repeat(len(images), 1),
        torch.full((2, 1, 3, 3), 0.5),
        torch.tensor([0, 1]),
        unmask.Linf(EPS),
    )
    finding = restart_losses(sample, restarts=3, steps=4)
    assert (finding.forwards, finding.backwards) == (2 * 3 * 5, 0)
    # The second image is misclassified as it is, and so from every start.
    assert finding.evidence["kinds"] == ["not found", "easily found"]


def test_losses_beyond_all_floats_stay_numbers() -> None:
    sample = Sample.of(
        lambda images: torch.tensor([[-3e38, 3e38]]).repeat(len(images), 1),
        torch.full((1, 1, 3, 3), 0.5),
        torch.tensor([0]),
        unmask.Linf(EPS),
    )
    losses = restart_losses(sample, restarts=2, steps=1).evidence["losses"]
    assert losses == [[torch.finfo(torch.float32).max] * 2]


def test_starts_differ_between_restarts_and_images(four: tuple[Masked, Sample]) -> None:
    _, sample = four
    seeds = {seed for r in range(15) for seed in sample.streams.child("restart_losses").child("restart", r).seeds}
    assert len(seeds) == 15 * 4
    assert isinstance(sample.streams, Streams) and len(lifts(sample, 3).unique()) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"restarts": 0}, "restarts is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"step_size": 0.0}, "Step size in pixels: got 0"),
    ],
)
def test_unusable_settings_are_refused(four: tuple[Masked, Sample], settings: dict[str, float], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        restart_losses(four[1], **settings)


def test_an_empty_sample_is_refused(four: tuple[Masked, Sample]) -> None:
    with pytest.raises(AuditError, match="no images"):
        restart_losses(four[1].first(0))
