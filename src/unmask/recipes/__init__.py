"""Recipes: the seeds' models as Python, one module per source, each row a function that returns a Recipe."""

from unmask.recipes import digits, mnist
from unmask.recipes.recipe import RECIPES, Claim, Recipe, find_recipe, override
from unmask.recipes.running import Trained, train

__all__ = ["RECIPES", "Claim", "Recipe", "Trained", "digits", "find_recipe", "mnist", "override", "train"]
