"""Every variant of every benchmark is a valid recipe."""

import pytest
from harness.benchmarks import BENCHMARKS, variants_of
from harness.results import settings_digest
from harness.strategies import is_told_the_task
from harness.variants import DENSE_COLD, FIRST_TASK_NETWORK

from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.recipe.loading import load_recipe

EVERY = [pytest.param(benchmark, variant, id=f"{benchmark}-{variant.name}") for benchmark in BENCHMARKS for variant in variants_of(benchmark)]


@pytest.mark.parametrize(("benchmark", "variant"), EVERY)
def test_a_variant_is_a_valid_recipe(benchmark, variant, monkeypatch):
    monkeypatch.setenv("TSN_DATA", "data")
    monkeypatch.setenv(FIRST_TASK_NETWORK, "network.safetensors")
    row = BENCHMARKS[benchmark]
    recipe = load_recipe(row.recipe, overrides=[*row.overrides, *variant.overrides], strategy_config=strategy_config)
    assert recipe.targets == ()
    assert recipe.training == load_recipe(row.recipe, overrides=row.overrides, strategy_config=strategy_config).training
    strategy_config(recipe.strategy.name)(**recipe.strategy.options)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_variants_have_names_and_settings_of_their_own(benchmark):
    variants = variants_of(benchmark)
    assert len({variant.name for variant in variants}) == len(variants)
    assert len({settings_digest({}, variant.settings) for variant in variants}) == len(variants)
    assert DENSE_COLD in {variant.name for variant in variants}


@pytest.mark.parametrize("benchmark", ["permuted_digits", "split_cifar100"])
def test_an_encoding_says_its_density_whatever_the_recipe_has(benchmark):
    for variant in variants_of(benchmark):
        keys = {override.partition("=")[0] for override in variant.overrides}
        assert variant.kind == "dense" or keys >= {"plan.density", "plan.density_by_layer"}, variant.name


@pytest.mark.parametrize("benchmark", ["cifar100_10x10", "permuted_mnist", "har_subjects", "cifar100_20x5", "three_datasets"])
@pytest.mark.parametrize("control", ["tsn-30", "tsn-10"])
def test_full_variants_differ_from_their_control_by_what_they_add_alone(benchmark, control):
    settings = {variant.name: variant.settings for variant in variants_of(benchmark)}
    assert settings[f"{control}-full"] == (*settings[control], "plan.adapt_bits=true", "post_training.prune_share=0.1")


def test_every_choice_of_sparcls_parts_is_there_once():
    names = ("sparsity", "remove", "keep_gradients")
    off = {"sparsity": 0.0, "remove": 0.0, "keep_gradients": 1.0}
    choices = []
    for variant in variants_of("permuted_mnist"):
        if variant.name.startswith("sparcl-er") and is_told_the_task(variant.name):
            options = load_options(variant)
            assert (options["replay"], options["beta"]) == ("er", 1.0), "or it would not be `er` with the parts off"
            choices.append((options["granularity"], *(options[name] != off[name] for name in names)))
    assert choices.pop() == ("unit", True, True, True)
    assert len(choices) == len(set(choices)) == 7
    assert {granularity for granularity, *_ in choices} == {"element"} and ("element", False, False, False) not in choices


def load_options(variant):
    return load_recipe("permuted_digits", overrides=variant.overrides, strategy_config=strategy_config).strategy.options


def test_the_full_form_is_the_small_one_with_other_sizes():
    for name, row in BENCHMARKS.items():
        if name.endswith("_full"):
            small = BENCHMARKS[name.removesuffix("_full")]
            assert (row.recipe, row.variants) == (small.recipe, small.variants)
            assert row.overrides
