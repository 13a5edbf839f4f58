"""What a run is told apart by, and how its phases are timed."""

import pytest
from harness import measured
from harness.benchmarks import BENCHMARKS, variants_of
from harness.measured import PhaseClock, settings_of, strategy_options
from harness.variants import FIRST_TASK_NETWORK

from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.strategies import er, tsn


def variant(name, benchmark="permuted_mnist"):
    return next(each for each in variants_of(benchmark) if each.name == name)


@pytest.mark.parametrize("name", ["er", "sparcl-er-mask", "tsn-10-knn", "frozen-norms"])
@pytest.mark.parametrize("benchmark", ["permuted_mnist", "cifar100_10x10_full"])
def test_strategy_options_are_those_that_the_recipe_resolves_to(benchmark, name, monkeypatch):
    found = settings_of(benchmark, variant(name)).strategy_options
    monkeypatch.setenv("TSN_DATA", "data")
    monkeypatch.setenv(FIRST_TASK_NETWORK, "network.safetensors")
    row = BENCHMARKS[benchmark]
    recipe = load_recipe(row.recipe, overrides=[*row.overrides, *variant(name).overrides], strategy_config=strategy_config)
    assert found == recipe.model_dump(mode="json")["strategy"]["options"]


def test_later_keys_count_and_the_recipe_stays():
    recipe = {"strategy": {"name": "tsn", "options": {"search": 0.25}}}
    assert strategy_options(recipe, ["strategy.options.search=0.75", "plan.density=0.1"]) == tsn.Config(search=0.75).model_dump(mode="json")
    assert strategy_options(recipe, ["strategy={name: er}"]) == er.Config().model_dump(mode="json")
    assert recipe == {"strategy": {"name": "tsn", "options": {"search": 0.25}}}


@pytest.mark.parametrize("name", ["dense-cold", "wsn-fp32-10"])
def test_where_no_strategy_runs_there_are_no_options(name):
    assert settings_of("permuted_mnist", variant(name)).strategy_options is None


def test_phases_are_timed_between_their_steps(monkeypatch):
    clock, (wall, processor) = PhaseClock(), (iter((1.0, 4.0, 9.0, 100.0, 110.0)), iter((0.5, 1.0, 2.0, 50.0, 53.0)))
    monkeypatch.setattr(measured.time, "monotonic", lambda: next(wall))
    monkeypatch.setattr(measured.time, "process_time", lambda: next(processor))
    for phase, done in (("search", 1), ("search", 2), ("search", 3), ("codes", 1), ("codes", 2)):
        clock(phase, done, 3)
    assert clock.seconds == {"search": 8.0, "codes": 10.0}
    assert clock.processor_seconds == {"search": 1.5, "codes": 3.0}
