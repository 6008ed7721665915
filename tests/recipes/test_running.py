"""`train`: the card and weights that it leaves, what it resumes, returns and refuses, and the CLI's folder."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import unmask
from unmask.cli.app import app
from unmask.data import DataSet, load_data
from unmask.errors import CheckpointError, DataError, ModelError, OutputError, RecipeError
from unmask.models import load_model
from unmask.models.zoo import CARD_KEYS
from unmask.recipes import RECIPES, Recipe, find_recipe, train
from unmask.recipes.cards import accuracies
from unmask.recipes.running import CARD, CONFIGURATION, WEIGHTS
from unmask.threat import Linf
from unmask.training import (
    EnsembleAdversary,
    GaussianNoise,
    PgdAdversary,
    Progress,
    Training,
    adversarial_training,
    mixed_minibatch_pgd,
)
from unmask.training.loop import CHECKPOINTS, LOG

Sets = tuple[DataSet, DataSet]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sets() -> Sets:
    return load_data("digits", "train").first(80), load_data("digits", "test").first(50)


def recipe(**changes: object) -> Recipe:
    adversary = PgdAdversary(Linf("0.1"), steps=1, step_size=0.1)
    training = Training(
        mixed_minibatch_pgd(adversary, 1.0), epochs=2, batch_size=32, augmentations=(GaussianNoise(0.1),), ema=0.9
    )
    return replace(Recipe("mine", "a test's", "digits", "digits-cnn", Linf("0.1"), training), **changes)  # type: ignore[arg-type]


@pytest.fixture
def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Stopped(BaseException):
    """Stands for whatever ends a process."""


def never(now: Progress) -> None:
    raise AssertionError("there was nothing left to train")


class TestResult:
    def test_the_card_has_all_that_a_packaged_model_s_card_must_have(self, sets: Sets, tmp_path: Path) -> None:
        card = train(recipe(), seed=3, data=sets, run_dir=tmp_path).card
        assert [key for key in CARD_KEYS if key not in card] == []
        assert card == json.loads((tmp_path / CARD).read_text())
        assert card["sha256"] == hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
        assert (card["name"], card["architecture"], card["classes"], card["data"]) == (
            "mine",
            "digits-cnn",
            10,
            "digits",
        )
        assert card["threat"] == {"norm": "linf", "eps": "0.1", "low": 0.0, "high": 1.0}
        assert card["objective"] == recipe().training.objective.describe()
        assert card["training"]["seed"] == 3
        assert card["training"]["epochs"] == 2
        assert card["training"]["examples"] == 80
        assert card["training"]["data_fingerprint"] == sets[0].fingerprint()
        assert card["figures"]["test_examples"] == 50
        assert card["packages"]["torch"] == version("torch")

    def test_the_card_s_accuracy_is_the_model_s(self, sets: Sets) -> None:
        trained = train(recipe(), data=sets, epochs=6)
        with torch.no_grad():
            right = (trained.model(sets[1].pixels()).argmax(1) == sets[1].labels).float().mean().item()
        assert trained.card["figures"]["clean_accuracy"] == pytest.approx(right, abs=5e-5)
        assert 0.1 < right <= 1
        assert accuracies(trained.model, sets[1], [1], batch_size=7) == pytest.approx([right], abs=1e-6)

    def test_the_card_s_command_names_what_was_overridden(self) -> None:
        card = train("digits-plain", seed=3, epochs=1, batch_size=400).card
        assert card["command"] == "unmask train digits-plain --set epochs=1 --set batch_size=400 --seed 3"

    def test_the_card_s_command_says_what_no_name_leads_to(self, sets: Sets, small: nn.Module) -> None:
        card = train(recipe(), seed=3, epochs=1, data=sets, model=small).card
        assert card["command"] == "unmask.train(recipe, seed=3, data=..., model=...)  # in Python, the recipe mine"
        assert train(recipe(), epochs=1).card["command"] == "unmask train recipe.toml"

    def test_the_card_has_the_top_five_and_both_data_fingerprints(self, sets: Sets, tmp_path: Path) -> None:
        trained = train(recipe(), epochs=1, data=sets, run_dir=tmp_path)
        figures = trained.card["figures"]
        likeliest = trained.model(sets[1].pixels()).argsort(1, descending=True)[:, :5]
        right = (likeliest == sets[1].labels[:, None]).any(1).float().mean().item()
        assert figures["clean_accuracy"] < figures["clean_accuracy_top5"] == pytest.approx(right, abs=5e-5)
        assert figures["test_data_fingerprint"] == sets[1].fingerprint()

    def test_the_model_is_frozen_and_in_eval_mode(self, sets: Sets) -> None:
        trained = train(recipe(), epochs=1, data=sets)
        assert trained.run_dir is None
        assert not trained.model.training
        assert not any(parameter.requires_grad for parameter in trained.model.parameters())

    def test_the_folder_loads_to_the_same_logits(self, sets: Sets, tmp_path: Path) -> None:
        trained = train(recipe(), data=sets, run_dir=tmp_path)
        loaded = load_model(str(tmp_path))
        assert loaded.name == "mine"
        assert loaded.card == trained.card
        x = sets[1].pixels()
        assert torch.equal(loaded.model(x), trained.model(x))

    def test_the_seed_decides_weights_and_training(self, sets: Sets) -> None:
        first, again, other = (train(recipe(), seed=seed, data=sets).model for seed in (0, 0, 1))
        x = sets[1].pixels()
        assert torch.equal(first(x), again(x))
        assert not torch.equal(first(x), other(x))

    def test_what_is_watched_is_the_recipe_s_training(self, sets: Sets) -> None:
        told: list[Progress] = []
        lines: list[dict] = []
        train(recipe(), data=sets, watch=told.append, log=lines.append)
        assert [now.step for now in told] == [1, 2, 3, 4, 5, 6]
        assert [line["epoch"] for line in lines] == [1, 2]

    def test_it_is_on_the_package_s_face(self, tmp_path: Path) -> None:
        trained = unmask.train("digits-plain", epochs=1, seed=0, run_dir=tmp_path)
        assert isinstance(trained, unmask.Trained)
        assert trained.card["figures"]["test_examples"] == 360
        assert trained.card["training"]["examples"] == 1437


class TestOwn:
    """Users' own data and models, by name and in memory."""

    def test_a_given_module_is_left_as_it_is_and_its_copy_resumes(
        self, sets: Sets, small: nn.Module, tmp_path: Path
    ) -> None:
        before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
        trained = train(recipe(), data=sets, model=small, run_dir=tmp_path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
        assert trained.card["architecture"].endswith(":Sequential")
        again = train(recipe(), data=sets, model=small, run_dir=tmp_path, watch=never)
        x = sets[1].pixels()
        assert torch.equal(again.model(x), trained.model(x))
        assert not torch.equal(trained.model(x), small(x))
        assert not (tmp_path / CONFIGURATION).exists()

    def test_the_classes_are_the_data_s(self, sets: Sets) -> None:
        three = tuple(replace(part.select((part.labels < 3).nonzero()[:, 0]), classes=("a", "b", "c")) for part in sets)
        trained = train(recipe(), epochs=1, data=three)  # type: ignore[arg-type]
        assert trained.card["classes"] == 3 == trained.model(sets[0].pixels()).shape[1]
        assert "clean_accuracy_top5" not in trained.card["figures"]

    def test_a_module_of_other_classes_or_images_is_refused(self, sets: Sets, small: nn.Module) -> None:
        with pytest.raises(ModelError, match="answers with 7 classes, but digits has 10"):
            train(recipe(), data=sets, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 7)))
        with pytest.raises(ModelError, match=r"cannot take images of shape \(1, 8, 8\) of digits"):
            train(recipe(), data=sets, model=nn.Sequential(nn.Flatten(), nn.Linear(63, 10)))

    def test_data_without_splits_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "whole.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4))
        with pytest.raises(DataError, match=r"whole\.npz' has no splits.*x_train"):
            train(recipe(data=str(tmp_path / "whole.npz")))


class TestSurrogates:
    def test_they_are_loaded_by_name(self, sets: Sets, tmp_path: Path) -> None:
        train(recipe(name="other"), epochs=1, data=sets, run_dir=tmp_path / "other")
        adversary = EnsembleAdversary(PgdAdversary(Linf("0.1"), 1, 0.1), (str(tmp_path / "other"),))
        trained = train(recipe(training=Training(adversarial_training(adversary), epochs=1)), data=sets)
        assert trained.card["objective"]["adversary"]["surrogates"] == [str(tmp_path / "other")]
        assert trained.recipe.training.objective.adversary == adversary

    def test_those_of_other_images_are_refused(self, sets: Sets) -> None:
        adversary = EnsembleAdversary(PgdAdversary(Linf("0.1"), 1, 0.1), ("mnist-plain",))
        with pytest.raises(ModelError, match="28"):
            train(recipe(training=Training(adversarial_training(adversary))), data=sets)


class TestHeldOut:
    """Images held out of a named data set, here digits that only the test holds out."""

    def test_the_first_images_are_not_trained_on(self, tmp_path: Path) -> None:
        trained = train(recipe(held_out=1400), epochs=1)
        expected = load_data("digits", "train").select(torch.arange(1400, 1437))
        assert trained.card["training"]["examples"] == 37
        assert trained.card["training"]["data_fingerprint"] == expected.fingerprint()
        assert trained.card["figures"]["test_examples"] == 360

    def test_given_data_is_taken_whole(self, sets: Sets) -> None:
        assert train(recipe(held_out=60), epochs=1, data=sets).card["training"]["examples"] == 80

    def test_it_is_part_of_the_description(self) -> None:
        assert recipe(held_out=60).describe() != recipe().describe()


class TestFolder:
    def test_it_holds_weights_card_log_and_checkpoints(self, sets: Sets, tmp_path: Path) -> None:
        train(recipe(), data=sets, run_dir=tmp_path / "a" / "b")
        assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {WEIGHTS, CARD, LOG, CHECKPOINTS}

    def test_its_settings_train_the_same_again(self, tmp_path: Path) -> None:
        trained = train(recipe(held_out=1400), seed=5, epochs=1, run_dir=tmp_path)
        again = train(tmp_path / CONFIGURATION, run_dir=tmp_path, watch=never)
        assert again.card == trained.card
        assert again.recipe == replace(trained.recipe, summary=again.recipe.summary, training=again.recipe.training)

    def test_a_finished_training_is_returned_at_once(self, sets: Sets, tmp_path: Path) -> None:
        trained = train(recipe(), data=sets, run_dir=tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        again = train(recipe(), data=sets, run_dir=tmp_path, watch=never)
        assert again.card == trained.card
        assert torch.equal(again.model(sets[1].pixels()), trained.model(sets[1].pixels()))
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def test_a_finished_training_needs_no_checkpoints(self, sets: Sets, tmp_path: Path) -> None:
        trained = train(recipe(), data=sets, run_dir=tmp_path)
        for path in (tmp_path / CHECKPOINTS).iterdir():
            path.unlink()
        again = train(recipe(), data=sets, run_dir=tmp_path, watch=never)
        assert again.card == trained.card

    @pytest.mark.parametrize("step", [1, 3, 4])
    def test_an_unfinished_one_goes_on_to_the_same_file(self, step: int, sets: Sets, tmp_path: Path) -> None:
        def stop(now: Progress) -> None:
            if now.step == step:
                raise Stopped

        whole = train(recipe(), data=sets, run_dir=tmp_path / "whole")
        with pytest.raises(Stopped):
            train(recipe(), data=sets, run_dir=tmp_path / "broken", watch=stop)
        assert not (tmp_path / "broken" / CARD).exists()
        resumed = train(recipe(), data=sets, run_dir=tmp_path / "broken")
        assert resumed.card == whole.card
        assert (tmp_path / "broken" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()

    def test_stopped_between_weights_and_card_it_writes_both_again(
        self, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from unmask.recipes import running

        def without_card(path: Path, payload: bytes) -> None:
            if path.name == CARD:
                raise Stopped
            path.write_bytes(payload)

        with monkeypatch.context() as patch:
            patch.setattr(running, "write_atomic", without_card)
            with pytest.raises(Stopped):
                train(recipe(), data=sets, run_dir=tmp_path)
        assert (tmp_path / WEIGHTS).exists()
        card = train(recipe(), data=sets, run_dir=tmp_path, watch=never).card
        assert card == json.loads((tmp_path / CARD).read_text())

    @pytest.mark.parametrize("other", [{"seed": 1}, {"epochs": 3}, {"batch_size": 16}])
    def test_a_finished_model_of_other_settings_is_refused(self, other, sets: Sets, tmp_path: Path) -> None:
        train(recipe(), data=sets, run_dir=tmp_path)
        before = (tmp_path / WEIGHTS).read_bytes()
        with pytest.raises(CheckpointError, match=r"finished model 'mine', trained with other .*another --run-dir"):
            train(recipe(), data=sets, run_dir=tmp_path, **other)
        assert (tmp_path / WEIGHTS).read_bytes() == before

    def test_an_unfinished_training_of_other_data_is_refused(self, sets: Sets, tmp_path: Path) -> None:
        def stop(now: Progress) -> None:
            if now.step == 4:
                raise Stopped

        with pytest.raises(Stopped):
            train(recipe(), data=sets, run_dir=tmp_path, watch=stop)
        with pytest.raises(CheckpointError, match="other settings, data or seed"):
            train(recipe(), data=(sets[0].first(79), sets[1]), run_dir=tmp_path)

    def test_someone_s_own_weights_are_not_overwritten(self, sets: Sets, tmp_path: Path) -> None:
        (tmp_path / WEIGHTS).write_bytes(b"years of work")
        with pytest.raises(CheckpointError, match=r"model\.safetensors that no training left there.*--run-dir"):
            train(recipe(), data=sets, run_dir=tmp_path)
        assert (tmp_path / WEIGHTS).read_bytes() == b"years of work"

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"architecture": "digits-cnn"}'])
    def test_a_damaged_card_is_a_clear_error(self, damage: str, sets: Sets, tmp_path: Path) -> None:
        train(recipe(), data=sets, run_dir=tmp_path)
        (tmp_path / CARD).write_text(damage)
        with pytest.raises(CheckpointError, match=r"card .*model\.json"):
            train(recipe(), data=sets, run_dir=tmp_path)

    def test_damaged_weights_are_a_clear_error(self, sets: Sets, tmp_path: Path) -> None:
        train(recipe(), data=sets, run_dir=tmp_path)
        (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1] + b"\x00")
        with pytest.raises(CheckpointError, match="changed or damaged"):
            train(recipe(), data=sets, run_dir=tmp_path)

    def test_a_folder_that_cannot_be_made_is_said_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"Cannot write .*file/run"):
            train(recipe(), run_dir=tmp_path / "file" / "run", watch=never)


class TestRefusals:
    def test_an_unknown_recipe(self) -> None:
        with pytest.raises(RecipeError, match="Did you mean 'digits-plain'"):
            train("digits-plane")

    def test_absent_data(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="MNIST"):
            train("mnist-plain", data_dir=tmp_path)

    def test_images_that_the_network_does_not_take(self, sets: Sets) -> None:
        with pytest.raises(ModelError, match="28"):
            train(recipe(architecture="lenet"), data=sets)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs `unmask train` in an empty folder, and register the recipe `000/digits/mine`."""
    monkeypatch.chdir(tmp_path)
    name = "000/digits/mine"
    monkeypatch.setitem(
        RECIPES, name, lambda: replace(recipe(name=name), training=find_recipe("digits-plain").training)
    )

    def run(*words: str):
        return CliRunner().invoke(app, ["train", *words])

    return run


class TestCommand:
    def test_a_recipe_with_slashes_gets_one_folder_without(self, command, tmp_path: Path) -> None:
        done = command("000/digits/mine", "--epochs", "1", "--seed", "4")
        assert done.exit_code == 0, done.output
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["000-digits-mine-s4"]
        assert (tmp_path / "runs" / "000-digits-mine-s4" / CARD).is_file()
        assert "runs/000-digits-mine-s4" in done.output

    def test_tensorboard_writes_beside_the_log(self, command, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard", reason="the extra unmask[tensorboard] is not installed")
        done = command("digits-plain", "--epochs", "1", "--run-dir", "run", "--tensorboard")
        assert done.exit_code == 0, done.output
        assert len([*(tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*")]) == 1
        assert (tmp_path / "run" / LOG).is_file()

    def test_an_unknown_recipe_leaves_nothing_behind(self, command, tmp_path: Path) -> None:
        done = command("digits-plane", "--tensorboard")
        assert isinstance(done.exception, RecipeError) or done.exit_code == 2
        assert not [*tmp_path.iterdir()]
