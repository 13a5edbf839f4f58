"""The parent found by similarity: a repeated task goes to its twin, noise to the trunk; said, kept, the same again, and from no other task's data."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.parts.task_similarity import ParentRule
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.parent_choice import choose_parent, parent_by_similarity
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.store.store import Store
from tsn_toolkit.workshop import Workshop

sys.path.insert(0, str(Path(__file__).parent))
import learning_samples as samples  # noqa: E402

NAMES = ("first", "second")


@pytest.fixture(scope="module", params=["seed", "checkpoint"])
def store(request, tmp_path_factory):
    """Two unlike tasks, each learned over the trunk."""
    store = Store.create(tmp_path_factory.mktemp("similarity") / "store", trunk=samples.trunk(request.param), graph=samples.graph(), recipe={})
    for name, classes in zip(NAMES, ((0, 1, 2), (3, 4, 5)), strict=True):
        store.commit(samples.learn("tsn", samples.make_context(store, task(name, classes), epochs=8)), {})
    return store


@pytest.fixture(scope="module")
def shop():
    return Workshop(factory=samples.factory, graph=samples.graph())


def task(name, classes, seed=0):
    return samples.make_data(name, classes, train=240, noise=0.5, seed=seed)


def noise(seed):
    """Images without any pattern, with labels that know nothing of them."""
    data, generator = task("noise", (0, 1, 2)), torch.Generator().manual_seed(seed)
    return replace(data, train=Split(torch.randint(0, 256, data.train.x.shape, generator=generator, dtype=torch.uint8), data.train.y))


@pytest.mark.parametrize("measure", ["knn", "gaussian"])
def test_noise_goes_to_the_trunk(store, shop, measure):
    for seed in range(4):
        assert parent_by_similarity(store, shop, noise(seed), ParentRule(measure, 0.0, 512)).parent == "trunk"


@pytest.mark.parametrize("measure", ["knn", "gaussian"])
@pytest.mark.parametrize(("twin", "classes"), [("first", (0, 1, 2)), ("second", (3, 4, 5))])
def test_a_repeated_task_is_most_like_its_twin(store, shop, measure, twin, classes):
    if store.trunk().kind == "checkpoint":
        pytest.skip("this trunk was trained on every task's classes, so each of its children knows them")
    choice = parent_by_similarity(store, shop, task("again", classes, seed=1), ParentRule(measure, 0.0, 512))
    assert choice.parent == choice.best == twin, choice.line()


def test_only_training_examples_of_the_new_task_are_read_and_no_more_than_asked_for(store, shop):
    data = task("again", (0, 1, 2), seed=1)
    without = replace(data, validation=Split(data.validation.x[:0], data.validation.y[:0]), test=Split(data.test.x[:0], data.test.y[:0]))
    rule = ParentRule("knn", 0.0, 100)
    choice, other = parent_by_similarity(store, shop, data, rule), parent_by_similarity(store, shop, without, rule)
    assert choice == other and choice.examples == 80


def test_auto_follows_the_strategy_s_rule_says_so_and_keeps_it(store, shop, tiny_recipe):
    said, kept = [], {}
    hooks = Hooks(say=said.append, keep=lambda name, what, values: kept.update({(name, what): values}))

    def chosen(*overrides):
        recipe = load_recipe(tiny_recipe, overrides=list(overrides), strategy_config=strategy_config)
        return choose_parent(recipe, store, shop, task("again", (3, 4, 5), seed=1), hooks)

    usual = "trunk" if store.trunk().kind == "checkpoint" else "second"
    assert [chosen("parent=auto"), chosen("parent=previous"), chosen("parent=trunk")] == [usual, "second", "trunk"] and not said
    assert chosen("parent=previous", "strategy.options.similarity=knn") == "second" and not said, "the recipe names it"
    parent = chosen("parent=auto", "strategy.options.similarity=knn")
    record = kept["again", "parent_choice"]
    assert record["parent"] == parent and set(record["similarity"]) == {"trunk", *NAMES} and record["best"] == "second"
    assert said == [said[0]] and said[0].startswith(f"task `again`: parent `{parent}` by knn similarity on 240 training examples: trunk ")
    assert chosen("parent=auto", "strategy.options.similarity=knn", "strategy.options.similarity_margin=1") == "trunk"
    assert chosen("parent=auto", "strategy.name=wsn", "strategy.options={}") == usual, "a strategy without a rule"


def test_a_run_records_the_choice_and_repeats_it(tsn, tiny_recipe, tmp_path):
    settings = ("--set", "parent=auto", "--set", "strategy.options.similarity=knn", "--set", "tasks.count=2")
    for name in ("one", "two"):
        assert tsn("run", tiny_recipe, *settings, "--out", tmp_path / name).exit_code == 0
    parts = [sorted(path.read_bytes() for path in (tmp_path / name / "store" / "tasks").iterdir()) for name in ("one", "two")]
    assert parts[0] == parts[1]
    tasks = json.loads((tmp_path / "one" / "summary.json").read_text(encoding="utf-8"))["tasks"]
    assert "parent_choice" not in tasks[0] and set(tasks[1]["parent_choice"]["similarity"]) == {"trunk", "classes-0-1"}
    assert tasks[1]["parent_choice"]["parent"] == Store.open(tmp_path / "one" / "store").entries[1].parent
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert "knn similarity: trunk " in page and "knn similarity" in (tmp_path / "one" / "log.txt").read_text(encoding="utf-8")
