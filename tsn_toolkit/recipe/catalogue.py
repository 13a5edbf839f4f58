"""Finding recipes by name: in the working folder's `recipes`, then in the package's own."""

from __future__ import annotations

from pathlib import Path

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.registry import data_folders, did_you_mean


def list_recipes() -> dict[str, Path]:
    """Recipe name (the file's stem) -> file, sorted by name; a recipe of the working folder hides the package's of the same name."""
    found: dict[str, Path] = {}
    for folder in data_folders("recipes"):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe.

    Args:
        name_or_path: a path of a file, or a name with or without `.yaml`.

    Raises:
        RecipeError: there is no such file and no such name; lists the known names and the nearest.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.is_file():
        return path
    known = list_recipes()
    name = text.removesuffix(".yaml")
    if name in known:
        return known[name]
    hint = did_you_mean(path.name.removesuffix(".yaml"), known)
    raise RecipeError(f"no recipe {text!r}: there is no such file{hint}; known recipes: {', '.join(known) or 'none'}. Name one of these or a file.")
