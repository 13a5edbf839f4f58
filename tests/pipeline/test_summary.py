"""The summary of a run whose tasks were retired."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import learning_samples as samples  # noqa: E402

from tsn_toolkit.errors import RunError
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.summary import summarise
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.run_folder import create_run_folder
from tsn_toolkit.store.store import Store


def test_a_run_without_tasks_has_nothing_to_report(tmp_path):
    recipe = Recipe.model_validate({"name": "r", "model": {"factory": "a:b"}, "data": {"source": "digits"}})
    folder = create_run_folder(tmp_path / "run", "name: r\n")
    store = Store.create(folder.store, trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})
    with pytest.raises(RunError, match="every task of its store was retired, so there is nothing to report"):
        summarise(recipe, folder, store, None, ("first", "second"), Hooks(say=print))
