"""Recipes: the seeds' models as Python, one module per source, each row a function or a line that makes a Recipe."""

# This is the order of the registry, and so of `unmask list recipes`.
# isort: off
from unmask.recipes import digits, mnist, defences
from unmask.recipes import mosbach2018, mosbach2018_experiments
from unmask.recipes import shafahi2018, shafahi2018_cifar, shafahi2018_experiments
from unmask.recipes import kannan2018, kannan2018_experiments

# isort: on
from unmask.recipes.configuration import Configuration, configure
from unmask.recipes.recipe import RECIPES, Claim, Recipe, find_recipe, override
from unmask.recipes.running import Trained, train

__all__ = [
    "RECIPES",
    "Claim",
    "Configuration",
    "Recipe",
    "Trained",
    "configure",
    "defences",
    "digits",
    "find_recipe",
    "kannan2018",
    "kannan2018_experiments",
    "mnist",
    "mosbach2018",
    "mosbach2018_experiments",
    "override",
    "shafahi2018",
    "shafahi2018_cifar",
    "shafahi2018_experiments",
    "train",
]
