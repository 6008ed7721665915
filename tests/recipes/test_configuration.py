"""Configurations: every recipe as a file and back, changes on top, and the answers to mistakes."""

import json
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.errors import RecipeError
from unmask.recipes import RECIPES, Configuration, Recipe, configure, find_recipe
from unmask.recipes.configuration import command, setting
from unmask.recipes.settings import Reader, kinds, settings_of, written
from unmask.recipes.toml import toml
from unmask.threat import L2, Linf
from unmask.training import (
    Adversary,
    CosineRate,
    EnsembleAdversary,
    FreeAdversary,
    GaussianNoise,
    Objective,
    Optimizer,
    PgdAdversary,
    StepRate,
    Training,
    Validation,
    VirtualAdversary,
    WeightAdversary,
)
from unmask.training.augment import Augmentation
from unmask.training.optimizers import Schedule
from unmask.training.penalties import Term, cross_entropy

MINE = """
data = "digits"
architecture = "digits-cnn"
threat = "Linf 8/255"
epochs = 3
seed = 7
ema = 0.9

[optimizer]
name = "sgd"
lr = 0.1
settings = {momentum = 0.9}

[schedule]
kind = "step"
boundaries = [0.5, 0.75]

[[augmentations]]
kind = "gaussian-noise"
sigma = 0.5

[[terms]]
kind = "cross_entropy"
on = "adversarial"

[[terms]]
kind = "gradient_alignment"
weight = 0.2

[adversary]
kind = "pgd"
steps = 2
step_size = "2/255"

[validation]
images = 100
threat = "same"
"""


def plain(configured: Configuration) -> str:
    return json.dumps([configured.recipe.describe(), configured.seed], default=str, sort_keys=True)


def changed(name: str, *texts: str) -> Configuration:
    return configure(name, {f"--set {text}": setting(text) for text in texts})


@pytest.fixture
def written_down(tmp_path: Path):
    """Return a function that writes a file mine.toml and returns its path."""

    def write(text: str) -> Path:
        (tmp_path / "mine.toml").write_text(text)
        return tmp_path / "mine.toml"

    return write


class TestFiles:
    @pytest.mark.parametrize("name", RECIPES)
    def test_every_recipe_is_the_same_training_after_a_file(self, name: str, written_down) -> None:
        before = Configuration(find_recipe(name), 3)
        after = configure(written_down(before.toml()))
        assert plain(after) == plain(before)
        assert after.toml() == before.toml()

    def test_a_file_needs_no_recipe_to_start_from(self, written_down) -> None:
        found = configure(written_down(MINE))
        threat = Linf("8/255")
        training = found.recipe.training
        assert (found.recipe.name, found.seed, found.recipe.threat) == ("mine", 7, threat)
        assert training.objective.adversary == PgdAdversary(threat, steps=2, step_size=2 / 255)
        assert [term.describe() for term in training.objective.terms] == [
            cross_entropy(on="adversarial").describe(),
            {"name": "gradient_alignment", "weight": 0.2, "threat": str(threat)},
        ]
        assert training.optimizer == Optimizer("sgd", 0.1, {"momentum": 0.9})
        assert training.schedule == StepRate((0.5, 0.75))
        assert training.augmentations == (GaussianNoise(0.5),)
        assert training.validation == Validation(images=100, threat=threat)
        assert (training.epochs, training.ema) == (3, 0.9)

    def test_a_file_may_start_from_a_recipe(self, written_down) -> None:
        path = written_down('recipe = "mnist-clp"\nepochs = 2\n[[terms]]\nkind = "cross_entropy"\n')
        found = configure(path).recipe
        base = find_recipe("mnist-clp")
        assert (found.name, found.data, found.training.epochs) == ("mine", base.data, 2)
        assert [term.name for term in found.training.objective.terms] == ["cross_entropy"]
        assert found.training.optimizer == base.training.optimizer

    def test_pixel_bounds_are_kept(self, written_down) -> None:
        recipe = Recipe("mine", "", "digits", "digits-cnn", L2("0.5", -1, 1), find_recipe("digits-plain").training)
        assert configure(written_down(Configuration(recipe).toml())).recipe.threat == recipe.threat

    def test_what_is_python_only_is_said(self) -> None:
        term = Term("mine", 1.0, lambda batch: batch.x.sum(), frozenset({"clean"}))
        recipe = Recipe("mine", "", "digits", "digits-cnn", Linf("0.1"), Training(Objective((term,))))
        with pytest.raises(RecipeError, match="term mine is made by no function"):
            Configuration(recipe).toml()

    @pytest.mark.parametrize("kind", kinds(Term))
    def test_every_term_can_be_written(self, kind: str) -> None:
        threat = Linf("0.3")
        reader = Reader(lambda place: "here", threat)
        known = settings_of(kinds(Term)[kind])
        for words in [{}, {"on": "adversarial"}] if "on" in known else [{}]:
            term = reader.read(Term, {"kind": kind, "weight": 0.25, **words}, ())
            again = reader.read(Term, written(Term, term, threat), ())
            assert again.describe() == term.describe()

    @pytest.mark.parametrize(
        ("hint", "value"),
        [
            (Adversary, VirtualAdversary(0.5)),
            (Adversary, FreeAdversary(Linf("0.1"), 4)),
            (Adversary, EnsembleAdversary(PgdAdversary(L2(1), 1, 0.5), ("a", "b"))),
            (Schedule, CosineRate()),
            (Augmentation, GaussianNoise(0.1, clip=True)),
            (WeightAdversary | None, WeightAdversary(0.1, 2)),
        ],
    )
    def test_parts_are_the_same_after_being_written(self, hint, value) -> None:
        threat = Linf("0.3")
        assert Reader(lambda place: "here", threat).read(hint, written(hint, value, threat), ()) == value


class TestChanges:
    def test_a_key_of_a_table_changes_it_alone(self) -> None:
        base, found = find_recipe("mnist-at").training, changed("mnist-at", "adversary.steps=3", "epochs=2").recipe
        assert found.training.objective.adversary == PgdAdversary(Linf("0.3"), steps=3, step_size=0.1)
        assert (found.training.epochs, found.training.optimizer) == (2, base.optimizer)

    def test_another_kind_starts_its_table_anew(self) -> None:
        found = changed("mnist-clp", "optimizer.lr=0.1", "optimizer.name=sgd", "schedule.kind=constant")
        assert found.recipe.training.optimizer == Optimizer("sgd", 0.1)

    @pytest.mark.parametrize("entry", ["1", "clean_logit_pairing"])
    def test_an_entry_of_a_list_goes_by_number_or_kind(self, entry: str) -> None:
        terms = changed("mnist-clp", f"terms.{entry}.weight=2").recipe.training.objective.terms
        assert [(term.name, term.weight) for term in terms] == [("cross_entropy", 1), ("clean_logit_pairing", 2)]

    def test_the_parts_follow_the_threat(self) -> None:
        found = changed("mnist-mart", "threat=Linf 0.1").recipe
        assert found.training.objective.adversary.threat == found.threat == found.training.validation.threat

    def test_a_threat_that_a_part_names_itself_stays(self) -> None:
        found = changed("mnist-trades", "threat=Linf 0.1").recipe
        assert found.training.objective.adversary.threat == Linf("0.32")
        assert found.training.validation.threat == found.threat

    def test_none_takes_a_part_away(self) -> None:
        assert changed("mnist-trades", "validation=none").recipe.training.validation is None

    def test_other_data_are_trained_on_whole(self) -> None:
        assert find_recipe("002/mnist/alp").held_out == changed("002/mnist/alp", "epochs=1").recipe.held_out == 5000
        assert changed("002/mnist/alp", "data=mine.npz").recipe.held_out == 0
        assert changed("002/mnist/alp", "data=mine.npz", "held_out=3").recipe.held_out == 3

    @pytest.mark.parametrize(
        "texts",
        [
            (),
            ("epochs=2", "optimizer.lr=1e-4"),
            ("validation=none", "ema=none", "terms.1.weight=2"),
            ("optimizer={name='sgd', lr=0.1}", "data=my images.npz", "name=mnist-trades"),
            ("terms=[{kind='cross_entropy'}]", "adversary=none"),
        ],
    )
    def test_the_command_leads_to_the_same(self, texts) -> None:
        found = changed("mnist-trades", *texts)
        _, _, name, *options = shlex.split(command(found))
        assert options[-2:] == ["--seed", "0"]
        assert plain(changed(name, *options[1:-2:2])) == plain(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch=3", "There is no setting 'epoch'. Did you mean 'epochs'"),
        ("optimizer.lrr=1", "optimizer: There is no setting 'lrr'. Did you mean 'lr'"),
        ("optimizer.settings.epss=1", "optimizer.settings: There is no setting 'epss'. Did you mean 'eps'"),
        ("optimizer.settings.betas=3", "optimizer.settings: torch refuses them"),
        ("optimizer={name='adams', lr=1}", "There is no optimizer 'adams'. Did you mean 'adam'"),
        ("schedule.kind=cosin", "schedule: There is no kind 'cosin'. Did you mean 'cosine'"),
        ("terms.cross_entropi.weight=2", "There is no entry 'cross_entropi'. Did you mean 'cross_entropy'"),
        (
            'terms=[{kind="logit_squezing"}]',
            "terms.0: There is no kind 'logit_squezing'. Did you mean 'logit_sq",
        ),
        ('terms=[{kind="logit_squeezing"}]', r"terms.0: weight \(a number\) missing"),
        ('terms=[{kind="cross_entropy", on="dirty"}]', "terms.0.on: There is no choice 'dirty'"),
        ("terms=[]", "The objective has no terms"),
        ("adversary.steps=3", "adversary: kind missing: give one of ensemble, free, pgd, virtual"),
        ("adversary=pgd", r"adversary: steps \(a whole number\), step_size \(a number\) missing"),
        ("epochs=many", "epochs: 'many' came; expected a whole number"),
        ("epochs=2.5", "epochs: 2.5 came; expected a whole number"),
        ("ema=true", "ema: true came; expected a number"),
        ("data=5", "data: 5 came; expected a text"),
        ("optimizer=3", "optimizer: 3 came; expected a table"),
        ("augmentations=3", "augmentations: 3 came; expected a list"),
        ("threat=Linf", "threat: 'Linf' came; expected a threat model such as"),
        ("threat=Linf 8", "threat: eps 8 is larger"),
        ("threat=l3 1", "threat: There is no norm 'l3'. Did you mean"),
        ("validation.images=no", "validation.images: 'no' came"),
        ("augmentations.0.sigma=-1", "augmentations.0: The noise's sigma is -1"),
    ],
)
class TestMistakes:
    def test_an_option_is_named(self, text: str, expected: str) -> None:
        with pytest.raises(RecipeError, match=f"--set {text.split('=')[0]}=.*{expected}"):
            changed("mnist-clp", text)

    def test_a_file_is_named(self, text: str, expected: str, written_down) -> None:
        path = written_down(toml({"recipe": "mnist-clp"} | setting(text)))
        with pytest.raises(RecipeError, match=f"^{path}.*{expected}"):
            configure(path)


class TestUnusable:
    @pytest.mark.parametrize("text", ["epochs", "=3", "a..b=3"])
    def test_changes_without_a_key_or_value(self, text: str) -> None:
        with pytest.raises(RecipeError, match="expected KEY=VALUE"):
            setting(text)

    def test_another_recipe_among_the_changes(self) -> None:
        with pytest.raises(RecipeError, match="--set recipe=mnist-at: There is no setting 'recipe'"):
            changed("mnist-clp", "recipe=mnist-at")

    def test_files(self, written_down, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"There is no file .*absent\.toml"):
            configure(tmp_path / "absent.toml")
        with pytest.raises(RecipeError, match=r"mine\.toml is not valid TOML.*line 1"):
            configure(written_down("epochs = many\n"))
        with pytest.raises(RecipeError, match=r"mine\.toml, recipe: There is no recipe 'mnist-clip'. Did you mean"):
            configure(written_down('recipe = "mnist-clip"'))
        with pytest.raises(RecipeError, match=r"mine\.toml: data, architecture, threat, terms missing"):
            configure(written_down("epochs = 3"))


texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@given(st.dictionaries(texts, values, max_size=4))
def test_toml_is_read_back_to_the_bit(table: dict) -> None:
    assert tomllib.loads(toml(table)) == table


def test_other_packages_texts_are_no_kinds_of_text() -> None:
    @dataclass
    class Labelled(str):
        label: str = ""

    assert Labelled in str.__subclasses__()
    assert kinds(str) == {}
