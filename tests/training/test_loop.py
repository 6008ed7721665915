"""The loop: it learns, logs what it did, repeats itself bit for bit, averages, and stops when it diverges."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data import DataSet
from unmask.errors import CheckpointError, OutputError, RecipeError
from unmask.models import build
from unmask.streams import derive_generator
from unmask.threat import Linf
from unmask.training import (
    CosineRate,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    Progress,
    StaircaseRate,
    Training,
    adversarial_training,
    clp,
    fit,
    loop,
    plain,
)
from unmask.training.checkpoints import latest_checkpoint
from unmask.training.loop import CHECKPOINTS, LOG, training_fingerprint
from unmask.training.penalties import Batch, Term, cross_entropy

QUICK = Training(clp(0.5), Optimizer("adam", 1e-3), epochs=2, batch_size=32, augmentations=(GaussianNoise(0.5),))
ADVERSARIAL = Training(
    adversarial_training(PgdAdversary(Linf("0.1"), steps=2, step_size=0.05)), epochs=1, batch_size=32, ema=0.9
)


def fresh() -> nn.Module:
    return build("digits-cnn", generator=derive_generator("network"))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def read_log(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / LOG).read_text().splitlines()]


def spoiled_after(steps: int) -> Term:
    """Return a term that is NaN from the step after `steps` on."""
    calls = 0

    def function(batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        return batch.half("clean").sum() * (torch.nan if calls > steps else 0.0)

    return Term("spoiled", 1.0, function, frozenset({"clean"}))


class TestLearning:
    def test_the_loss_falls_and_digits_are_recognised(self, digits: DataSet) -> None:
        lines: list[dict] = []
        data = digits.first(500)
        model = fit(fresh(), data, Training(plain(), epochs=4, batch_size=64), seed=0, log=lines.append)
        losses = [line["losses"]["cross_entropy"] for line in lines]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] / 3
        assert not model.training
        with torch.no_grad():
            right = model(data.pixels()).argmax(1) == data.labels
        assert right.float().mean() > 0.85

    def test_every_example_is_seen_once_per_epoch_in_a_new_order(self, few: DataSet, small) -> None:
        fit(small, few, Training(plain(), epochs=2, batch_size=32), seed=0)
        sizes = [len(images) for training, images in small.seen]
        assert sizes == [32, 32, 16] * 2
        epochs = [torch.cat([images for _, images in small.seen[part]]) for part in (slice(3), slice(3, 6))]
        for epoch in epochs:
            assert sorted(image.tolist() for image in epoch) == sorted(image.tolist() for image in few.pixels())
        assert not torch.equal(*epochs)

    def test_augmentations_are_applied_in_order_with_new_draws_every_step(self, few: DataSet, small) -> None:
        noise = (GaussianNoise(100.0), GaussianNoise(0.0, clip=True))
        fit(small, few, Training(plain(), epochs=2, batch_size=40, augmentations=noise), seed=0)
        steps = [images for _, images in small.seen]
        assert len(steps) == 4
        for images in steps:
            assert ((images == 0) | (images == 1)).float().mean() > 0.98
        for first, second in combinations(steps, 2):
            assert (first == second).float().mean() < 0.6  # what is left of the images is the noise's sign

    def test_the_adversary_starts_elsewhere_every_step(self, few: DataSet, small) -> None:
        alike = replace(few, images=few.images[:1].expand_as(few.images).clone())
        fit(small, alike, replace(ADVERSARIAL, epochs=2, batch_size=40), seed=0)
        starts = torch.cat([images for training, images in small.seen if not training][::2])
        assert len(starts) == 160
        assert len(starts.flatten(1).unique(dim=0)) == 160

    def test_the_schedule_sets_the_rate_of_every_step(self, few: DataSet) -> None:
        """With plain SGD on a linear loss, each step moves the weight by exactly its learning rate."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
        places: list[float] = []
        slope = Term(
            "slope", 1.0, lambda batch: model[1].weight[0, 0] + 0 * batch.half("clean").sum(), frozenset({"clean"})
        )
        training = Training(Objective((slope,)), Optimizer("sgd", 0.5), StaircaseRate(0.1, 1.0), 2, batch_size=40)
        start = model[1].weight[0, 0].item()
        fit(model, few, training, seed=0, watch=lambda now: places.append(model[1].weight[0, 0].item()))
        moves = [before - after for before, after in zip([start, *places], places, strict=False)]
        assert moves == pytest.approx([0.5, 0.5, 0.05, 0.05], abs=1e-6)


class TestRecords:
    def test_one_line_per_epoch_in_the_file_and_to_the_callable(self, few: DataSet, tmp_path: Path) -> None:
        lines: list[dict] = []
        fit(fresh(), few, QUICK, seed=0, run_dir=tmp_path, log=lines.append)
        assert read_log(tmp_path) == lines
        assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6)]
        for line in lines:
            assert line.keys() == {
                "epoch",
                "step",
                "learning_rate",
                "losses",
                "images_per_second",
                "seconds",
                "attack_share",
            }
            assert line["losses"].keys() == {"cross_entropy", "clean_logit_pairing"}
            assert line["learning_rate"] == 1e-3
            assert line["images_per_second"] > 0

    def test_a_logged_loss_is_the_mean_over_images_of_batches_of_any_size(self, few: DataSet) -> None:
        lines: list[dict] = []
        training = Training(plain(), Optimizer("sgd", 1e-12), epochs=1, batch_size=32)
        fit(fresh(), few, training, seed=0, log=lines.append)
        with torch.no_grad():
            expected = F.cross_entropy(fresh()(few.pixels()), few.labels).item()
        assert lines[0]["losses"]["cross_entropy"] == pytest.approx(expected, rel=1e-5)

    def test_the_learning_rate_of_the_epoch_s_last_step_is_logged(self, few: DataSet) -> None:
        lines: list[dict] = []
        training = Training(plain(), Optimizer("adam", 0.01), CosineRate(), epochs=2, batch_size=40)
        fit(fresh(), few, training, seed=0, log=lines.append)
        assert [line["learning_rate"] for line in lines] == pytest.approx([0.00853553, 0.00146447], abs=1e-8)

    def test_a_watcher_is_told_after_every_step(self, few: DataSet) -> None:
        told: list[Progress] = []
        fit(fresh(), few, QUICK, seed=0, watch=told.append)
        assert [(now.epoch, now.step, now.steps) for now in told] == [(step // 3, step + 1, 6) for step in range(6)]
        assert all(now.images_per_second > 0 and now.losses["cross_entropy"] > 0 for now in told)

    def test_without_a_run_dir_nothing_is_written(
        self, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        fit(fresh(), few, QUICK, seed=0)
        assert not [*tmp_path.iterdir()]


class TestDeterminism:
    @pytest.mark.parametrize("training", [QUICK, ADVERSARIAL], ids=["clp", "adversarial"])
    def test_the_same_seed_gives_the_same_bits_and_another_seed_others(self, training, few: DataSet) -> None:
        first, again, other = (fit(fresh(), few, training, seed=seed) for seed in (0, 0, 1))
        assert same(first, again)
        assert not same(first, other)

    def test_the_global_random_state_is_neither_read_nor_changed(self, few: DataSet) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = fit(fresh(), few, ADVERSARIAL, seed=0)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        assert same(first, fit(fresh(), few, ADVERSARIAL, seed=0))

    def test_watching_and_recording_change_nothing(
        self, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        watched = fit(fresh(), few, QUICK, seed=0, run_dir=tmp_path, watch=lambda now: None, log=lambda line: None)
        assert same(watched, fit(fresh(), few, QUICK, seed=0))


class TestMovingAverage:
    def test_it_equals_an_average_kept_by_hand_and_is_the_result(self, few: DataSet, small) -> None:
        kept: dict[str, Tensor] = {}

        def average(now: Progress) -> None:
            for name, tensor in small.state_dict().items():
                new = tensor.double()
                kept[name] = new.clone() if now.step == 1 else 0.9 * kept[name] + 0.1 * new

        training = Training(plain(), Optimizer("sgd", 0.5), epochs=3, batch_size=32, ema=0.9)
        result = fit(small, few, training, seed=0, watch=average)
        assert not result.training
        for name, tensor in result.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor.double(), kept[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(result.head.weight, small.head.weight)

    def test_without_it_the_model_itself_is_the_result(self, few: DataSet, small) -> None:
        assert fit(small, few, Training(plain(), epochs=1), seed=0) is small


class TestDivergence:
    def test_a_loss_that_is_nan_stops_the_training_and_keeps_the_last_good_state(
        self, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        training = Training(Objective((cross_entropy(), spoiled_after(4))), epochs=3, batch_size=32)
        with pytest.raises(
            RecipeError, match=r"diverged: spoiled is .* in epoch 2 \(step 5\).*Lower the learning rate"
        ):
            fit(fresh(), few, training, seed=0, run_dir=tmp_path)
        state = latest_checkpoint(tmp_path / CHECKPOINTS, training_fingerprint(fresh(), few, training, 0))
        assert state is not None
        assert state.progress["step"] == 4
        assert all(tensor.isfinite().all() for tensor in state.tensors.values())
        assert len(read_log(tmp_path)) == 1

    def test_weights_that_are_nan_are_never_kept_though_the_loss_was_finite(
        self, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        calls = 0

        def function(batch: Batch) -> Tensor:
            nonlocal calls
            calls += 1
            flat = 0 * batch.half("clean").sum()
            return flat.sqrt() if calls == 3 else flat  # a value of 0 whose gradient is NaN

        cliff = Term("cliff", 1.0, function, frozenset({"clean"}))
        training = Training(Objective((cross_entropy(), cliff)), epochs=2, batch_size=32)
        with pytest.raises(RecipeError, match=r"diverged: the norm of the weights is .* in epoch 1 \(step 3\)"):
            fit(fresh(), few, training, seed=0, run_dir=tmp_path)
        state = latest_checkpoint(tmp_path / CHECKPOINTS, training_fingerprint(fresh(), few, training, 0))
        assert state is not None
        assert state.progress["step"] == 2

    def test_a_learning_rate_that_is_too_high_is_told_from_a_bad_model(self, few: DataSet) -> None:
        adversarial = Training(ADVERSARIAL.objective, Optimizer("sgd", 1e30), epochs=3, batch_size=32)
        with pytest.raises(RecipeError, match="training diverged"):
            fit(fresh(), few, adversarial, seed=0)


class TestSettings:
    @pytest.mark.parametrize("settings", [{"epochs": 0}, {"batch_size": 0}])
    def test_no_epochs_or_empty_batches_are_refused(self, settings) -> None:
        with pytest.raises(RecipeError, match="expected 1 or more of each"):
            Training(plain(), **settings)

    @pytest.mark.parametrize("ema", [0.0, 1.0, -1.0, float("nan")])
    def test_a_decay_outside_0_to_1_is_refused(self, ema: float) -> None:
        with pytest.raises(RecipeError, match=r"average's decay is .* between 0 and 1"):
            Training(plain(), ema=ema)

    def test_descriptions_are_plain_values(self) -> None:
        assert json.loads(json.dumps(ADVERSARIAL.describe()))["objective"]["adversary"]["steps"] == 2
        assert json.loads(json.dumps(QUICK.describe()))["augmentations"] == [
            {"kind": "GaussianNoise", "sigma": 0.5, "clip": False}
        ]

    def test_the_fingerprint_tells_settings_data_seeds_and_networks_apart(
        self, few: DataSet, digits: DataSet, small
    ) -> None:
        base = training_fingerprint(fresh(), few, QUICK, 0)
        others = [
            training_fingerprint(fresh(), few, ADVERSARIAL, 0),
            training_fingerprint(fresh(), few, Training(clp(0.5), epochs=2, batch_size=32), 0),
            training_fingerprint(fresh(), digits.first(79), QUICK, 0),
            training_fingerprint(fresh(), few, QUICK, 1),
            training_fingerprint(small, few, QUICK, 0),
        ]
        assert training_fingerprint(fresh(), few, QUICK, 0) == base
        assert len({base, *others}) == 6


class TestFolder:
    def test_a_folder_of_another_training_is_refused_and_left_as_it_was(self, few: DataSet, tmp_path: Path) -> None:
        fit(fresh(), few, QUICK, seed=0, run_dir=tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(CheckpointError, match=r"other settings, data or seed.*another --run-dir"):
            fit(fresh(), few, QUICK, seed=1, run_dir=tmp_path)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def test_a_run_dir_that_cannot_be_made_is_an_output_error(self, few: DataSet, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"Cannot write .*file/run"):
            fit(fresh(), few, QUICK, seed=0, run_dir=tmp_path / "file" / "run")
