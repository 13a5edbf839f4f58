"""What a recipe asks of its plan under its targets."""

import pytest
import torch

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.planning import plan_of_recipe, plan_settings
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.target import load_target

TARGETS = [load_target("edge_cortex_m4").model_copy(update={"channel_multiple": multiple}) for multiple in (4, 6)]


@pytest.mark.parametrize(
    ("targets", "said", "multiple"), [([], "null", 1), (TARGETS[:1], "null", 4), (TARGETS, "null", 12), (TARGETS, "2", 2), (TARGETS, "1", 1)]
)
def test_units_are_kept_in_multiples_that_suit_every_target_unless_the_recipe_says_otherwise(targets, said, multiple):
    recipe = load_recipe("digits", overrides=[f"plan.channel_multiple={said}"], strategy_config=strategy_config)
    assert plan_settings(recipe, targets).channel_multiple == multiple
    graph = trace(small_cnn(), torch.zeros(1, 1, 8, 8))
    plan = plan_of_recipe(recipe, graph, targets, lambda _: None).plan
    sizes = {group.name: group.size for group in graph.groups}
    assert all(group.keep % multiple == 0 or group.keep == sizes[group.name] for group in plan.groups)
    assert multiple == 12 or any(group.keep < sizes[group.name] for group in plan.groups)
