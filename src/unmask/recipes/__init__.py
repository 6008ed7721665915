"""Recipes: the seeds' models as Python, one module per source, each row a function that returns a Recipe."""

# This is the order of the registry, and so of `unmask list recipes`.
# isort: off
from unmask.recipes import digits, mnist, defences
from unmask.recipes import mosbach2018, shafahi2018, kannan2018

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
    "mnist",
    "mosbach2018",
    "override",
    "shafahi2018",
    "train",
]
