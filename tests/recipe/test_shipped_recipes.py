"""The recipes that come with the package: each one is valid, also for the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tsn_toolkit.factory import call_factory
from tsn_toolkit.recipe.catalogue import list_recipes

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_recipe_resolves(tsn: Callable[..., Result], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSN_DATA", "data")
    done = tsn("run", path.stem, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    resolved = json.loads(done.stdout)
    assert (resolved["name"], resolved["schema"]) == (path.stem, 1)
    assert resolved["description"]
    assert sum(parameter.numel() for parameter in call_factory(resolved["model"]["factory"]).parameters()) > 0


def test_every_file_is_listed() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} <= set(list_recipes())
