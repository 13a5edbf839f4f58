"""Paths of a recipe: relative, absolute and below the home folder; factory files beside the recipe."""

from pathlib import Path

import pytest

from tsn_toolkit.recipe.environment import expand, is_machine_path, portable
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.strategies.tsn import Config

RECIPE = "schema: 1\nname: r\nmodel:\n  factory: {factory}\ndata:\n  source: digits\n"


def load(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides=overrides, strategy_config=lambda name: Config)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(folder of the recipe with model.py, working folder)."""
    beside, work = tmp_path / "some" / "dir", tmp_path / "work"
    beside.mkdir(parents=True)
    work.mkdir()
    (beside / "recipe.yaml").write_text(RECIPE.format(factory="model.py:make(width=8)"), encoding="utf-8")
    (beside / "model.py").write_text("def make(width): return None\n", encoding="utf-8")
    monkeypatch.chdir(work)
    return beside, work


def test_a_factory_file_beside_the_recipe_is_found(folders: tuple[Path, Path]) -> None:
    assert load(folders[0] / "recipe.yaml").model.factory == "../some/dir/model.py:make(width=8)"


def test_the_working_folder_comes_first(folders: tuple[Path, Path]) -> None:
    (folders[1] / "model.py").write_text("", encoding="utf-8")
    assert load(folders[0] / "recipe.yaml").model.factory == "model.py:make(width=8)"


def test_a_factory_file_that_is_nowhere_stays_as_written(folders: tuple[Path, Path]) -> None:
    (folders[0] / "model.py").unlink()
    assert load(folders[0] / "recipe.yaml").model.factory == "model.py:make(width=8)"


def test_a_data_factory_beside_the_recipe_is_found(folders: tuple[Path, Path]) -> None:
    recipe = load(folders[0] / "recipe.yaml", "data={source: factory, options: {factory: 'model.py:load'}}")
    assert recipe.data.options["factory"] == "../some/dir/model.py:load"


@pytest.mark.parametrize("home", [False, True])
def test_an_absolute_factory_file_is_kept_by_its_relative_path(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, home: bool) -> None:
    monkeypatch.setenv("HOME", str(folders[0]))
    written = "~/model.py" if home else str(folders[0] / "model.py")
    recipe = load(folders[0] / "recipe.yaml", f"model.factory={written}:make")
    assert recipe.model.factory == "../some/dir/model.py:make"


def test_absolute_and_home_paths_are_allowed(folders: tuple[Path, Path]) -> None:
    recipe = load(folders[0] / "recipe.yaml", "data.path=/data/mnist", "model.checkpoint=~/w.pth", "plan.file=/p.yaml")
    assert (recipe.data.path, recipe.model.checkpoint, recipe.plan.file) == ("/data/mnist", "~/w.pth", "/p.yaml")


def test_expand_knows_variables_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("PLACE", "~/here")
    assert [expand(text) for text in ("~/a", "${PLACE}/a", "a/~", "b")] == ["/home/x/a", "/home/x/here/a", "a/~", "b"]


@pytest.mark.parametrize(("text", "expected"), [("/a/b", True), ("~/b", True), ("~x/b", True), ("C:\\data", True), ("a/b", False), ("${A}/b", False)])
def test_machine_paths_do_not_reach_a_store(text: str, expected: bool) -> None:
    assert is_machine_path(text) is expected
    assert portable(text, "V") == ("${V}" if expected else text)


def test_no_path_is_no_path() -> None:
    assert portable(None, "V") is None
