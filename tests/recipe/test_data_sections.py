"""Data sets of a recipe: what an entry takes from `data`, what is checked, and what a store keeps of it."""

from pathlib import Path

import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.pipeline.founding import stored_recipe, strategy_config
from tsn_toolkit.recipe.data_sections import data_path_variables, data_sections, with_data_path
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe

TEXT = """\
name: r
model:
  factory: a.b:c
data:
  source: idx
  path: /sets/one
  options: {train_images: pictures}
  input_shape: [1, 28, 28]
  mean: [0.5]
  std: [0.25]
tasks:
  split: datasets
  datasets:
    - {name: one, train_limit: 7}
    - {name: two, path: /sets/two, options: {train_labels: names}, mean: [0.1], std: [0.2]}
    - {name: three, source: npz, path: three.npz, options: {is_test: null}, test_split: {fraction: 0.2}}
"""


def load(folder: Path, *overrides: str, text: str = TEXT) -> Recipe:
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "r.yaml", overrides=overrides, strategy_config=strategy_config)


def test_an_entry_takes_what_it_leaves_out_from_the_data(tmp_path: Path) -> None:
    one, two, three = data_sections(load(tmp_path))
    assert (one.path, one.options["train_images"], one.mean, one.train_limit) == ("/sets/one", "pictures", (0.5,), 7)
    assert (two.path, two.options["train_images"], two.options["train_labels"]) == ("/sets/two", "train-images-idx3-ubyte", "names")
    assert (two.mean, two.std, two.train_limit) == ((0.1,), (0.2,), None)
    assert (three.options["x"], three.options["y"], three.options["is_test"]) == ("x", "y", None)
    assert three.test_split is not None and three.test_split.fraction == 0.2
    assert {section.input_shape for section in (one, two, three)} == {(1, 28, 28)}


def test_another_source_takes_no_path_and_no_options(tmp_path: Path) -> None:
    section = data_sections(load(tmp_path, "tasks.datasets=[{name: d, source: digits}]"))[0]
    assert (section.source, section.path, section.options) == ("digits", None, {})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.input_shape=null", "data.input_shape: is null; `split: datasets` needs the one shape"),
        ("tasks.datasets=[{name: a}, {name: a}]", "tasks.datasets.1.name: is taken, got 'a'"),
        ("tasks.datasets=[{name: trunk}]", "tasks.datasets.0.name: is taken, got 'trunk'"),
        ("tasks.datasets=[{name: a, options: {pictures: x}}]", "tasks.datasets.0.options.pictures: unknown key"),
        ("tasks.datasets=[{name: a, source: idxx}]", "tasks.datasets.0.source: .*idxx"),
        ("tasks.datasets=[{name: a, path: '${NO_SUCH_PLACE}/x'}]", "tasks.datasets.0.path: needs the environment variable NO_SUCH_PLACE"),
        ("tasks.datasets=[{name: a, mean: [0.1, 0.2]}]", "tasks.datasets.0.std: needs one value per value of the mean, got 1 for 2"),
        ("tasks.datasets=[]", "lists 0 tasks with `split: datasets`"),
        ("tasks.count=4", "tasks.count: is 4, but `tasks.datasets` lists 3 tasks"),
        ("tasks.split=classes", "lists 3 tasks with `split: classes`; `split: datasets`, and only it, needs the list"),
        ("tasks.angles=[10.0]", "tasks.angles: lists 1 tasks with `split: datasets`; `split: rotation`, and only it"),
        ("tasks.groups_per_task=2", "tasks.groups_per_task: is 2, but `split: datasets` deals out no superclasses or subjects"),
        ("tasks.per_task=3", "tasks.per_task: is 3, but `split: datasets` deals out no classes by number"),
        ("tasks.order=shuffled", "tasks.order: is shuffled, but `split: datasets` deals out no classes, superclasses or subjects"),
        (f"tasks.datasets=[{{name: {'a' * 101}}}]", "tasks.datasets.0.name: must match pattern"),
        ("reference.dense=checkpoint", "reference.dense: is 'checkpoint', but one checkpoint has no logits for the classes of several data sets"),
    ],
)
def test_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, override)


def test_a_store_keeps_no_path_of_a_machine_and_no_later_data_set(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    kept = stored_recipe(recipe, 2)
    assert kept["data"]["path"] == "${TSN_DATA_PATH}"
    assert [(entry["name"], entry["path"]) for entry in kept["tasks"]["datasets"]] == [("one", None), ("two", "${TSN_DATA_PATH_1}")]
    assert kept["tasks"]["count"] == 2
    assert data_path_variables(recipe) == {"TSN_DATA_PATH": "/sets/one", "TSN_DATA_PATH_1": "/sets/two"}
    assert recipe.tasks.datasets[1].path == "/sets/two", "the recipe itself stays as it was"


def test_a_store_says_nothing_of_keys_that_are_not_used(tmp_path: Path) -> None:
    text = "name: r\nmodel: {factory: 'a.b:c'}\ndata: {source: digits}\n"
    kept = stored_recipe(load(tmp_path, text=text), 1)
    assert not {"test_split", "input_shape"} & set(kept["data"])
    assert set(kept["tasks"]) == {"split", "per_task", "count", "explicit", "order"}
    angles = stored_recipe(load(tmp_path, "tasks={split: rotation, angles: [0.0, 10.0, 20.0]}", text=text), 2)
    assert (angles["tasks"]["angles"], angles["tasks"]["count"]) == ([0.0, 10.0], 2)


def test_another_place_for_the_data_of_one_task(tmp_path: Path) -> None:
    moved = with_data_path(load(tmp_path), 1, "/moved")
    assert [section.path for section in data_sections(moved)] == ["/sets/one", "/moved", "three.npz"]
    plain = load(tmp_path, text="name: r\nmodel: {factory: 'a.b:c'}\ndata: {source: npz, path: a.npz}\n")
    assert with_data_path(plain, 3, "/moved").data.path == "/moved"
