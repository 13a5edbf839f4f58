"""Adaptive widths on the trained CIFAR-100 ResNet-20: its layers do not all need the same."""

import pytest

from tsn_toolkit import registry
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.pipeline.founding import found_store, shop_of_recipe, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import task_context
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.run_folder import create_run_folder

SAMPLE = ("data.train_limit=8000", "data.validation=0.5", "data.test_limit=200", "model.reference_accuracy=null", "training.epochs=1")


@pytest.mark.slow
@pytest.mark.data
def test_layers_get_different_widths(tsn_data, tmp_path):
    recipe = load_recipe("cifar100_resnet20", overrides=(*SAMPLE, "plan.adapt_bits=true"), strategy_config=strategy_config)
    lines = []
    hooks = Hooks(say=lines.append)
    store = found_store(recipe, create_run_folder(tmp_path / "run", ""), [], hooks)
    plan = plan_from_dict(store.recipe("trunk")["resolved_plan"])
    context = task_context(recipe, store, shop_of_recipe(recipe), plan, load_task(recipe, 0), 0, hooks)
    strategy = registry.load("tsn_toolkit.strategies", recipe.strategy.name)
    result = strategy.learn(context, strategy.Config(**recipe.strategy.options))
    widths = {name: codes.bit_width for name, codes in result.layers.items()}
    assert len(set(widths.values())) >= 2 and max(widths.values()) < 8
    assert all(any(f"{name}: {width} of 8 bits" in line for line in lines) for name, width in widths.items())
    assert result.validation["accuracy"] >= 0.95
