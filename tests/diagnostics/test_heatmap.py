"""On a linear model the step at which PGD breaks an image is known: every step moves the margin by the same amount."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from counted import Counted, refused, shelf
from torch import Tensor

import unmask
from unmask.diagnostics.heatmap import coarse_grid, full_grid, heatmap
from unmask.diagnostics.sample import Sample
from unmask.errors import AuditError, DataError

EPS, PIXELS = 0.1, 9


class Linear(Counted):
    """Two classes with logits (w.x + b, 0), which counts the passes of its images."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.bias = weights, -0.5 * float(weights.sum())
        super().__init__(self.answer)

    def answer(self, flat: Tensor) -> Tensor:
        first = flat @ self.weights + self.bias
        return torch.stack([first, torch.zeros_like(first)], 1)


def model_and_sample(count: int = 30, *, wrong: int = 3) -> tuple[Linear, Sample]:
    """Return images with margins of 0 to 1.2 times what eps can move; the first `wrong` carry the wrong label."""
    generator = torch.Generator().manual_seed(1)
    model = Linear(torch.randn(PIXELS, generator=generator))
    reach = EPS * model.weights.abs().sum()
    margins = reach * 1.2 * (torch.arange(count) + 0.5) / count
    x = 0.5 + (margins / model.weights.square().sum())[:, None] * model.weights
    y = torch.zeros(count, dtype=torch.int64)
    y[:wrong] = 1
    return model, Sample.of(model, x.view(count, 1, 3, 3), y, unmask.Linf(EPS), seed=5)


def expected_falls(model: Linear, sample: Sample, start: Tensor, step_size: float, steps: int) -> list[int | None]:
    """Return when each image falls: from `start`, pixels move by the step size against the weights' signs up to eps."""
    falls: list[int | None] = []
    for offset, image, label in zip((start - sample.x).flatten(1), sample.x.flatten(1), sample.y, strict=True):
        moved = [
            (offset - step * step_size * model.weights.sign()).clamp(-EPS, EPS) + image for step in range(steps + 1)
        ]
        wrong = [float(here @ model.weights) + model.bias < 0 for here in moved]
        falls.append(-1 if label == 1 else next((step for step, is_wrong in enumerate(wrong) if is_wrong), None))
    return falls


def shares(falls: list[int | None], counts: list[int]) -> list[float]:
    return [sum(fall is None or fall > count for fall in falls) / len(falls) for count in counts]


def test_the_full_grid_is_the_papers() -> None:
    step_sizes, steps = full_grid(unmask.Linf(0.3))
    assert len(step_sizes) == len(steps) == 37
    assert step_sizes[0] == pytest.approx(2.5 / 255) and step_sizes[-1] == pytest.approx(76.5 / 255)
    assert steps == tuple(range(40, 401, 10))
    assert all(later > earlier for earlier, later in pairwise(step_sizes))


def test_grids_scale_with_eps_and_the_coarse_one_is_part_of_the_full_one() -> None:
    full, coarse = full_grid(unmask.Linf("8/255")), coarse_grid(unmask.Linf("8/255"))
    assert full[0][0] == pytest.approx(8 / 255 * 2.5 / 76.5) and full[0][-1] == pytest.approx(8 / 255)
    assert set(coarse[0]) < set(full[0]) and set(coarse[1]) < set(full[1])
    assert (coarse[0][0], coarse[0][-1]) == (full[0][0], full[0][-1]) and (coarse[1][0], coarse[1][-1]) == (40, 400)


@pytest.mark.parametrize("start", ["clean", "uniform", "corners"])
def test_accuracies_are_those_of_the_closed_form(start: str) -> None:
    model, sample = model_and_sample()
    step_sizes, counts = [0.011, 0.037, EPS], [1, 2, 5, 9]
    streams = sample.streams.child("heatmap")
    begin = {"clean": sample.x, "uniform": sample.threat.uniform(sample.x, streams)}.get(start)
    begin = sample.threat.corner(sample.x, sample.streams.child("heatmap")) if begin is None else begin
    falls = {size: expected_falls(model, sample, begin, size, 9) for size in step_sizes}
    finding = heatmap(sample, step_sizes=step_sizes, steps=counts, usual=(5, 0.03), start=start)
    evidence = finding.evidence
    assert evidence["accuracy"] == [shares(falls[size], counts) for size in step_sizes]
    assert len({tuple(row) for row in evidence["accuracy"]}) == 3
    assert (evidence["step_sizes"], evidence["steps"]) == (step_sizes, counts)
    assert evidence["usual"] == [5, 0.037] and evidence["at_usual"] == shares(falls[0.037], [5])[0]
    assert evidence["lowest"] == min(min(row) for row in evidence["accuracy"])
    assert (evidence["n"], evidence["eps"]) == (30, EPS)
    together = [all(falls[size][i] is None for size in step_sizes) for i in range(30)]
    assert evidence["together"] == sum(together) / 30


def test_passes_are_counted_exactly() -> None:
    model, sample = model_and_sample()
    finding = heatmap(sample, step_sizes=[0.011, 0.037], steps=[9, 3])
    assert (finding.forwards, finding.backwards) == (model.forwards, model.backwards)
    assert finding.backwards > 0


def test_passes_follow_from_when_each_image_falls() -> None:
    model, sample = model_and_sample()
    falls = expected_falls(model, sample, sample.x, 0.037, 9)
    finding = heatmap(sample, step_sizes=[0.037], steps=[9], start="clean", batch_size=1)
    attacked = [fall for fall in falls if fall != -1]
    # The clean pass; an iterate more than there were steps; each break once more.
    forwards = 30 + sum(10 if fall is None else fall + 2 for fall in attacked)
    assert finding.forwards == forwards and None in attacked and 3 in attacked


def test_the_batch_size_changes_no_accuracy_and_bounds_the_batch() -> None:
    model, sample = model_and_sample()
    small = heatmap(sample, step_sizes=[0.011, 0.037], steps=[3, 9], batch_size=4)
    assert model.largest <= 4
    large = heatmap(sample, step_sizes=[0.011, 0.037], steps=[3, 9], batch_size=100)
    # A batch's backward pass includes images that its forward pass found broken.
    assert replace(small, backwards=0) == replace(large, backwards=0)


def test_a_second_run_computes_nothing_and_finds_the_same() -> None:
    _, sample = model_and_sample()
    parts, keep = shelf()
    told: list[tuple[int, int]] = []
    settings = {"step_sizes": [0.011, 0.037], "steps": [3, 9], "keep": keep}
    first = heatmap(sample, **settings)
    again = heatmap(replace(sample, model=refused), **settings, watch=lambda done, of: told.append((done, of)))
    assert first == again and told == [(1, 2), (2, 2)]
    assert json.loads(json.dumps(first.evidence, allow_nan=False)) == first.evidence
    assert any("0.037" in name and "9 steps" in name for name in parts)


def test_an_interrupted_run_goes_on_with_the_step_sizes_that_are_missing() -> None:
    model, sample = model_and_sample()
    parts, keep = shelf()
    whole = heatmap(sample, step_sizes=[0.011, 0.037], steps=[9], keep=keep)
    last = next(name for name in parts if "0.037" in name)
    del parts[last]
    model.forwards = 0
    assert heatmap(sample, step_sizes=[0.011, 0.037], steps=[9], keep=keep) == whole
    assert 0 < model.forwards < whole.forwards / 2


def test_large_gaps_between_settings_fail_and_small_ones_pass() -> None:
    _, sample = model_and_sample()
    hidden = heatmap(sample, step_sizes=[0.001, EPS], steps=[5], usual=(5, 0.001))
    assert hidden.status == "fail" and hidden.evidence["lowest_at"] == [5, EPS] and "worst" in hidden.next_step
    shown = heatmap(sample, step_sizes=[0.001, EPS], steps=[5], usual=(5, EPS))
    assert shown.status == "ok" and shown.next_step == ""
    between = heatmap(sample, step_sizes=[0.08], steps=[1, 5], usual=(1, 0.08), start="clean")
    assert between.evidence["at_usual"] - between.evidence["lowest"] == pytest.approx(5 / 30)
    some = heatmap(sample, step_sizes=[0.09], steps=[1, 5], usual=(1, 0.09), start="clean")
    assert some.evidence["at_usual"] - some.evidence["lowest"] == pytest.approx(2 / 30) and some.status == "warn"


def test_images_misclassified_without_attack_are_wrong_everywhere_and_not_attacked() -> None:
    model, sample = model_and_sample(6, wrong=6)
    finding = heatmap(sample, step_sizes=[0.01, 0.02], steps=[2])
    assert finding.evidence["accuracy"] == [[0.0], [0.0]] and finding.status == "ok"
    assert (finding.forwards, finding.backwards) == (6, 0) == (model.forwards, model.backwards)


@pytest.mark.parametrize(("row", "left"), [(1, 0.0), (29, 1.0)])
def test_one_image(row: int, left: float) -> None:
    _, sample = model_and_sample(wrong=0)
    finding = heatmap(sample.select(torch.tensor([row])), step_sizes=[0.05], steps=[4])
    assert finding.evidence["accuracy"] == [[left]] and finding.evidence["n"] == 1


def test_breaks_that_a_second_look_does_not_confirm_do_not_count() -> None:
    def liar(images: Tensor) -> Tensor:
        right = torch.tensor([1.0, 0.0]) + 0 * images.flatten(1)[:, :2]
        return right.flip(1) if images.requires_grad else right

    sample = Sample.of(liar, torch.full((4, 1, 3, 3), 0.5), torch.zeros(4, dtype=torch.int64), unmask.Linf(EPS))
    finding = heatmap(sample, step_sizes=[0.05], steps=[4])
    assert finding.evidence["accuracy"] == [[1.0]]
    # The clean pass, the start, and the second look.
    assert finding.forwards == 3 * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_sizes": []}, "Step sizes in pixels: got nothing"),
        ({"step_sizes": [0.1, 0.0]}, "positive"),
        ({"step_sizes": [float("nan")]}, "positive"),
        ({"steps": []}, "no numbers of steps"),
        ({"steps": [0, 3]}, "steps is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"start": "cornerz"}, "Did you mean 'corners'"),
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, object], message: str) -> None:
    _, sample = model_and_sample()
    with pytest.raises(AuditError, match=message):
        heatmap(sample, **{"step_sizes": [0.05], "steps": [2], **settings})


def test_unusable_samples_are_refused() -> None:
    _, sample = model_and_sample()
    with pytest.raises(AuditError, match="no images"):
        heatmap(sample.first(0))
    with pytest.raises(DataError, match=r"Labels lie in 1\.\.2; expected 0\.\.1"):
        heatmap(replace(sample, y=sample.y + 1), step_sizes=[0.05], steps=[2])
