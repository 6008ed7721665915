"""The registry of recipes: its order, and that every recipe can be built, described and named in full."""

import json
from dataclasses import replace

import pytest
import torch

from unmask.data import DATA_SETS
from unmask.errors import RecipeError
from unmask.models import ARCHITECTURES
from unmask.recipes import RECIPES, Recipe, find_recipe, override
from unmask.recipes.recipe import Claim, published, recipe, register
from unmask.streams import Streams
from unmask.threat import Linf
from unmask.training import Adversary, EnsembleAdversary, PgdAdversary, Training, plain

NAMES = [
    "digits-plain", "digits-clp", "digits-lsq", "digits-at",
    "mnist-plain", "mnist-clp", "mnist-lsq", "mnist-ls", "mnist-alp", "mnist-at",
    "mnist-fast-at", "mnist-trades", "mnist-mart", "mnist-awp", "mnist-free-at", "mnist-gradalign",
    "mnist-ensemble-at", "mnist-feature-pairing", "mnist-vat", "mnist-mixup",
    "000/mnist/plain", "000/mnist/clp", "000/mnist/lsq", "000/mnist/plain-alp",
    "000/mnist/50-at-alp", "000/mnist/50-at", "000/mnist/100-at-alp", "000/mnist/100-at",
    "000/cifar10/plain", "000/cifar10/clp", "000/cifar10/lsq", "000/cifar10/plain-alp",
    "000/cifar10/50-at-alp", "000/cifar10/50-at", "000/cifar10/100-at-alp", "000/cifar10/100-at",
    "000/tiny-imagenet/plain", "000/tiny-imagenet/clp", "000/tiny-imagenet/lsq", "000/tiny-imagenet/plain-alp-ll",
    "000/tiny-imagenet/fine-tuned-plain-alp-ll", "000/tiny-imagenet/50-at-ll", "000/tiny-imagenet/50-at-ll-alp-ll",
    "000/tiny-imagenet/100-at-ll", "000/tiny-imagenet/100-at-ll-alp-ll",
    "001/mnist/natural", "001/mnist/plain-sigma-0.5-100k", "001/mnist/plain-sigma-0.3-400k",
    "001/mnist/plain-sigma-0.5-400k", "001/mnist/lsq-0.5-sigma-0.5-100k", "001/mnist/lsq-0.5-sigma-0.5-400k",
    "001/mnist/lsq-2.0-sigma-0.0-400k", "001/mnist/lsq-2.0-sigma-0.3-400k", "001/mnist/lsq-2.0-sigma-0.5-100k",
    "001/mnist/lsq-2.0-sigma-0.5-400k", "001/mnist/lsq-5.0-sigma-0.5-100k", "001/mnist/lsq-5.0-sigma-0.5-400k",
    "001/mnist/lsq-10.0-sigma-0.5-100k", "001/mnist/lsq-10.0-sigma-0.5-400k", "001/mnist/plain-sigma-0.7-400k",
    "001/mnist/plain-sigma-1.0-400k", "001/mnist/ls-0.2-sigma-0-400k", "001/mnist/ls-0.2-sigma-0.1-400k",
    "001/mnist/ls-0.2-sigma-0.2-400k", "001/mnist/ls-0.2-sigma-0.3-400k", "001/mnist/ls-0.2-sigma-0.4-400k",
    "001/mnist/ls-0.2-sigma-0.5-400k", "001/mnist/ls-0.2-sigma-0.6-400k", "001/mnist/ls-0.2-sigma-0.7-400k",
    "001/mnist/ls-0.5-sigma-0.3-400k", "001/mnist/ls-0.5-sigma-0.5-400k", "001/mnist/ls-0.5-sigma-0.7-400k",
    "001/mnist/ls-0.75-sigma-0-400k", "001/mnist/ls-0.75-sigma-0.3-400k", "001/mnist/ls-0.75-sigma-0.5-400k",
    "001/mnist/ls-0.75-sigma-0.7-400k", "001/mnist/ls-0.95-sigma-0-400k", "001/mnist/ls-0.95-sigma-0.3-100k",
    "001/mnist/ls-0.95-sigma-0.3-400k", "001/mnist/ls-0.95-sigma-0.3-2M", "001/mnist/ls-0.95-sigma-0.5-100k",
    "001/mnist/ls-0.95-sigma-0.5-400k", "001/mnist/ls-0.95-sigma-0.5-2M", "001/mnist/lsq-0.5-sigma-0.0-400k",
    "001/mnist/adversarial", "001/mnist/adversarial-weak", "001/cifar10/natural", "001/cifar10/ls-0.2-sigma-20-80k",
    "001/cifar10/ls-0.2-sigma-30-80k", "001/cifar10/ls-0.2-sigma-40-80k", "001/cifar10/ls-0.5-sigma-20-80k",
    "001/cifar10/ls-0.5-sigma-30-80k", "001/cifar10/ls-0.9-sigma-30-80k", "001/cifar10/ls-0.2-sigma-30-160k",
    "001/cifar10/ls-0.5-sigma-30-160k", "001/cifar10/ls-0.8-sigma-30-160k", "001/cifar10/ls-0.95-sigma-20-160k",
    "001/cifar10/ls-0.95-sigma-30-160k", "001/cifar10/ls-0.95-sigma-40-160k", "001/cifar10/ls-0.95-sigma-30-240k",
    "001/cifar10/ls-0.8-sigma-30-320k", "001/cifar10/ls-0.95-sigma-40-320k", "001/cifar10/lsq-10-sigma-20-80k",
    "001/cifar10/lsq-10-sigma-20-160k", "001/cifar10/lsq-10-sigma-30-80k", "001/cifar10/lsq-10-sigma-30-160k",
    "001/cifar10/adversarial", "001/cifar10/adversarial-weak", "001/cifar100/lsq-5-sigma-20-80k",
    "001/cifar100/lsq-5-sigma-20-160k", "001/cifar100/adversarial-weak",
    "002/mnist/m-pgd", "002/mnist/alp", "002/mnist/noise",
    "002/mnist/clp-0.1", "002/mnist/clp-0.2", "002/mnist/clp-0.5", "002/mnist/clp-1",
    "002/mnist/lsq-0.1", "002/mnist/lsq-0.2", "002/mnist/lsq-0.5", "002/mnist/lsq-1",
    "002/svhn/m-pgd", "002/svhn/alp", "002/svhn/clp",
    "002/imagenet/regular", "002/imagenet/eat", "002/imagenet/step-ll", "002/imagenet/m-pgd", "002/imagenet/alp",
    "002/imagenet/clp", "002/imagenet/resnet101-mixup", "002/imagenet/resnet101-label-smoothing",
    "002/imagenet/resnet101-alp",
]  # fmt: skip
INPUT_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
INPUT_SHAPES |= {"svhn": (3, 32, 32), "tiny-imagenet": (3, 64, 64)}
INPUT_SHAPES |= {"imagenet": (3, 299, 299), "imagenet-224": (3, 224, 224)}
# Noise alone on Madry et al.'s network and training is a row of both papers.
TWINS = [["001/mnist/plain-sigma-0.5-100k", "002/mnist/noise"]]
LARGER_BALLS = {"mnist-trades": Linf("0.32")}


MINE = Recipe("mine", "a test's", "digits", "digits-cnn", Linf("0.1"), Training(plain()))


def shortened(adversary: Adversary, model: torch.nn.Module) -> Adversary:
    """Return the adversary with a single step, and with the model for its surrogates."""
    if isinstance(adversary, EnsembleAdversary):
        models = (model,) * len(adversary.surrogates)
        return replace(adversary, attack=shortened(adversary.attack, model), models=models)
    return replace(adversary, steps=1) if isinstance(adversary, PgdAdversary) else adversary


def test_the_names_and_their_order_are_stable() -> None:
    assert list(RECIPES) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestEveryRecipe:
    def test_it_has_its_registered_name_and_a_summary(self, name: str) -> None:
        found = find_recipe(name)
        assert found.name == name
        assert found.summary
        assert RECIPES[name].__doc__

    def test_its_parts_exist_and_fit_each_other(self, name: str) -> None:
        found = find_recipe(name)
        assert found.data in DATA_SETS
        assert ARCHITECTURES[found.architecture].input_shape == INPUT_SHAPES[found.data]
        assert 0 < found.threat.eps < 1
        adversary = found.training.objective.adversary
        attack = getattr(adversary, "attack", adversary)
        expected = LARGER_BALLS.get(name, found.threat)
        assert getattr(attack, "threat", expected) == expected

    def test_its_description_is_plain_values(self, name: str) -> None:
        described = json.loads(json.dumps(find_recipe(name).describe()))
        assert described["name"] == name
        assert described["training"]["epochs"] >= 1

    def test_its_objective_trains_its_network(self, name: str) -> None:
        """One backward pass on two images, with the adversary cut to one step."""
        found = find_recipe(name)
        shape = INPUT_SHAPES[found.data]
        generator = torch.Generator().manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], 10))
        objective = found.training.objective
        if objective.adversary is not None:
            objective = replace(objective, adversary=shortened(objective.adversary, model))
        x, y = torch.rand(2, *shape, generator=generator), torch.tensor([0, 1])
        for augmentation in found.training.augmentations:
            x = augmentation(x, generator)
        total = objective.total(objective.losses(model, x, y, lambda: Streams.derive(0, [0, 1])))
        total.backward()
        gradient = model[1].weight.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.any()


def test_no_two_recipes_describe_the_same_training() -> None:
    described = {}
    for name in NAMES:
        words = {**find_recipe(name).describe(), "name": ""}
        described.setdefault(json.dumps(words, sort_keys=True), []).append(name)
    assert [names for names in described.values() if len(names) > 1] == TWINS


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("mnist-clip", "mnist-clp"), ("000/mnist/cpl", "000/mnist/clp"), ("002/svhn/apl", "002/svhn/alp")],
)
def test_an_unknown_name_is_answered_with_the_closest(wrong: str, right: str) -> None:
    with pytest.raises(RecipeError, match=f"no recipe '{wrong}'. Did you mean '{right}'"):
        find_recipe(wrong)


def test_a_user_s_recipe_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.recipes.recipe.RECIPES", dict(RECIPES))
    recipe(lambda: MINE)
    assert find_recipe("mine") is MINE
    with pytest.raises(RecipeError, match="Two recipes are called 'mine'"):
        recipe(lambda: MINE)


def test_a_recipe_that_is_a_value_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.recipes.recipe.RECIPES", dict(RECIPES))
    register(MINE)
    assert find_recipe("mine") is MINE
    with pytest.raises(RecipeError, match="Two recipes are called 'mine'"):
        register(MINE)


class TestOverride:
    def test_given_settings_replace_the_recipe_s(self) -> None:
        changed = override(MINE, epochs=3, batch_size=7)
        assert (changed.training.epochs, changed.training.batch_size) == (3, 7)
        assert replace(changed, training=MINE.training) == MINE

    def test_none_keeps_them(self) -> None:
        assert override(MINE) == MINE

    def test_settings_that_make_no_sense_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="epochs 0"):
            override(MINE, epochs=0)


def test_published_values_are_percent_and_claims_are_shares() -> None:
    assert published("Paper", "Table 1", "Row", {"clean": 98.97, "pgd": 0.0}) == (
        Claim("Paper", "Table 1", "Row", "clean", 0.9897),
        Claim("Paper", "Table 1", "Row", "pgd", 0.0),
    )
