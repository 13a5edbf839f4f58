"""The `post_training` section: off by default, strict, and part of what is stored only where it says something."""

from pathlib import Path

import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.files import read_json
from tsn_toolkit.pipeline.founding import stored_recipe, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks, logged
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.trainer.context import PostTraining

TEXT = """\
name: small
model: {factory: "tsn_toolkit.models.mlp:mlp()"}
data: {source: digits}
targets: []
"""


def load(folder: Path, *overrides: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(TEXT)
    return load_recipe(path, overrides=overrides, strategy_config=strategy_config)


def test_the_defaults_are_those_of_the_trainer(tmp_path: Path) -> None:
    assert PostTraining(**load(tmp_path).post_training.model_dump()) == PostTraining()


def test_a_store_names_the_section_only_where_something_is_done(tmp_path: Path) -> None:
    assert "post_training" not in stored_recipe(load(tmp_path), 1)
    record = stored_recipe(load(tmp_path, "post_training.rounding=gptq"), 1)
    assert record["post_training"]["rounding"] == "gptq" and record["post_training"]["damping"] == 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("post_training.rounding=adaround", "adaround"),
        ("post_training.samples=3", "3"),
        ("post_training.bits=3", "bits"),
        ("post_training.damping=0.1", "is 0.1, but only `rounding: gptq` reads it and it is 'nearest'"),
        ("post_training.prune_share=1.0", "1"),
        ("post_training.prune_tolerance=0.1", "is 0.1, but `prune_share` is 0, so nothing is pruned"),
        ("post_training.rounding_steps=7", "is 7, but only `rounding: learned` reads it"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match="post_training") as caught:
        load(tmp_path, override)
    assert message in str(caught.value)


def test_a_percentile_belongs_to_its_rule(tmp_path: Path) -> None:
    assert load(tmp_path, "post_training.percentile=0.99").post_training.percentile == 0.99
    with pytest.raises(RecipeError, match=r"percentile.*is 0\.99, but only `ranges: percentile` reads it"):
        load(tmp_path, "post_training.percentile=0.99", "post_training.ranges=mse")


def test_records_of_steps_are_kept_beside_the_tasks_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    hooks = logged(folder, Hooks(say=lambda line: None))
    assert hooks.keep is not None
    hooks.keep("first", "post_training", [{"step": "rounding"}])
    assert read_json(folder.kept("first", "post_training")) == [{"step": "rounding"}]
    assert folder.kept("first", "post_training").parent == folder.record("first").parent
