"""What is refused before a task is learned."""

import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import learn_and_commit
from tsn_toolkit.recipe.schema import Recipe


def test_steps_that_a_shared_network_never_takes_are_refused():
    sections = {"strategy": {"name": "finetune"}, "post_training": {"equalize": True}}
    recipe = Recipe.model_validate({"name": "r", "model": {"factory": "a:b"}, "data": {"source": "digits"}, **sections})
    with pytest.raises(RecipeError, match="`post_training` is set, but strategy `finetune` rounds the network that all its tasks share"):
        learn_and_commit(recipe, None, None, None, 0, Hooks(say=print))
