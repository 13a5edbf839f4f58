"""Every variant of every benchmark is a valid recipe."""

import pytest
from harness.results import settings_digest
from harness.variants import BENCHMARKS, DENSE_COLD, FIRST_TASK_NETWORK, variants_of

from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.recipe.loading import load_recipe

EVERY = [pytest.param(benchmark, variant, id=f"{benchmark}-{variant.name}") for benchmark in BENCHMARKS for variant in variants_of(benchmark)]


@pytest.mark.parametrize(("benchmark", "variant"), EVERY)
def test_a_variant_is_a_valid_recipe(benchmark, variant, monkeypatch):
    monkeypatch.setenv("TSN_DATA", "data")
    monkeypatch.setenv(FIRST_TASK_NETWORK, "network.safetensors")
    recipe = load_recipe(benchmark, overrides=variant.overrides, strategy_config=strategy_config)
    assert recipe.targets == ()
    assert recipe.training.epochs == load_recipe(benchmark, strategy_config=strategy_config).training.epochs


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_variants_have_names_and_settings_of_their_own(benchmark):
    variants = variants_of(benchmark)
    assert len({variant.name for variant in variants}) == len(variants)
    assert len({settings_digest({}, variant.overrides) for variant in variants}) == len(variants)
    assert DENSE_COLD in {variant.name for variant in variants}


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_variant_says_its_density_whatever_the_recipe_has(benchmark):
    for variant in variants_of(benchmark):
        keys = {override.partition("=")[0] for override in variant.overrides}
        assert variant.kind == "dense" or keys >= {"plan.density", "plan.density_by_layer"}, variant.name
