"""Recipes: YAML files into typed, frozen, completely validated models."""

from tsn_toolkit.recipe.catalogue import find_recipe, list_recipes
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.loading import load_recipe, resolve_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import dump_yaml

__all__ = ["Recipe", "dump_yaml", "expand", "find_recipe", "list_recipes", "load_recipe", "resolve_recipe"]
