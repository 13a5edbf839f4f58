"""What every strategy of isolation `none` promises: one seed one result, nothing touched, a revision that answers for every task."""

import copy
import dataclasses
import functools

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit import registry
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.extract import extract
from tsn_toolkit.revisions import answer, superseded_bytes
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate

STRATEGIES = [name for name in registry.names("tsn_toolkit.strategies") if registry.load("tsn_toolkit.strategies", name).ISOLATION == "none"]
STRATEGIES += ["sparcl:unit"]
SPARSE = {"sparsity": 0.5, "keep_gradients": 0.5, "remove": 0.1}
OPTIONS = {"sparcl": SPARSE, "sparcl:unit": {**SPARSE, "granularity": "unit"}}
"""Of variants, and of strategies whose defaults learn too slowly for the fifteen steps of a test."""
KINDS = {"first": (0, 1, 2), "second": (5, 3, 4)}


def data_of(name, classes=None):
    return samples.make_data(name, classes or KINDS[name])


def learn(strategy, context, **options):
    """A strategy, or a variant of one after a colon, with its options of this file."""
    return samples.learn(strategy.partition(":")[0], context, **{**OPTIONS.get(strategy, {}), **options})


def context_of(store, data, earlier=(), **changes):
    """What the pipeline gives a strategy that continues the newest revision."""
    parent = store.entries[-1].name if store.entries else "trunk"
    revision = store.revision(parent) if store.entries else None
    return samples.make_context(store, data, parent=parent, revision=revision, earlier=lambda: earlier, **changes)


class Laboratory:
    """Stores with one and two tasks, learned only once."""

    def __init__(self, factory):
        self._factory = factory
        self.one = functools.cache(self._one)
        self.two = functools.cache(self._two)

    def store(self, kind="seed"):
        return Store.create(self._factory.mktemp("revisions") / "store", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})

    def _one(self, strategy, setting):
        store = self.store()
        return store, learn(strategy, context_of(store, data_of("first")), setting=setting)

    def _two(self, strategy, setting):
        _, result = self.one(strategy, setting)
        store = self.store()
        store.commit(result, {})
        classes = KINDS["first"] if setting == "domain-incremental" else KINDS["second"]
        context = context_of(store, data_of("second", classes), (data_of("first"),), seed=12)
        result = learn(strategy, context, setting=setting)
        store.commit(result, {})
        return store, result, context


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory)


SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")
both = pytest.mark.parametrize("strategy", STRATEGIES)


@both
def test_the_same_seed_gives_the_same_result_and_arguments_stay_as_they_were(lab, strategy):
    _, result, context = lab.two(strategy, "task-incremental")
    plain = dataclasses.replace(context, factory=None, earlier=None)
    kept = copy.deepcopy(plain)
    samples.assert_equal(learn(strategy, context), result)
    samples.assert_equal(plain, kept)


@both
def test_global_state_is_put_back(lab, strategy):
    torch.manual_seed(123)
    np.random.seed(5)
    before = torch.get_rng_state(), torch.is_grad_enabled(), np.random.get_state()[1].copy()
    learn(strategy, context_of(lab.store(), data_of("first"), epochs=1))
    assert torch.equal(before[0], torch.get_rng_state()) and torch.is_grad_enabled() == before[1]
    assert np.array_equal(before[2], np.random.get_state()[1])


@both
def test_test_data_decide_nothing(lab, strategy):
    data = data_of("first")
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, x=255 - data.test.x, y=data.test.y.flip(0)))
    again = learn(strategy, context_of(lab.store(), other))
    samples.assert_equal(again, lab.one(strategy, "task-incremental")[1])


@both
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_newest_revision_answers_for_every_task_from_its_folder(lab, strategy, setting):
    store, result, context = lab.two(strategy, setting)
    store = Store.open(store.path)
    assert (result.isolation, result.strategy, list(result.revision.rows)) == ("none", strategy.partition(":")[0], ["first", "second"])
    expected = {"task-incremental": (3, 6), "domain-incremental": (3, 3), "class-incremental": (6, 6)}[setting]
    for name, data in (("first", data_of("first")), ("second", context.data)):
        found = answer(store, name)
        assert found.part == "second" and found.weights.name == name
        assert (len(found.weights.classes), len(result.classes)) == expected
        measured = found.as_logits(data)
        assert [measured.classes[row] for row in measured.test.y.tolist()] == [data.classes[label] for label in data.test.y.tolist()]
        model = extract(samples.factory, samples.graph(), found.weights).model
        loss, accuracy = evaluate(model, measured.validation, measured, samples.CPU)
        if name == "second":
            assert accuracy == result.validation["accuracy"] and loss == pytest.approx(result.validation["loss"], rel=1e-6)
            if setting == "task-incremental":
                assert accuracy > 0.45, "three classes: no better than guessing"
    assert superseded_bytes(store) == store.entry("first").size_bytes


@both
def test_before_the_second_task_the_first_revision_answers(lab, strategy):
    _, result = lab.one(strategy, "task-incremental")
    store = lab.store()
    store.commit(result, {})
    assert answer(store, "first").part == "first" and superseded_bytes(store) == 0
    assert result.validation["accuracy"] > 0.45


@both
def test_integers_keep_to_the_bits_and_to_the_largest_code(lab, strategy):
    context = context_of(lab.store(), data_of("first"), plan=samples.plan(max_code=20), epochs=1)
    for codes in learn(strategy, context, bit_width=5).layers.values():
        assert codes.bit_width == 5 and np.abs(codes.codebook.astype(int)).max() <= 20


@both
def test_it_continues_a_trained_trunk(lab, strategy):
    result = learn(strategy, context_of(lab.store("checkpoint"), data_of("first")))
    assert result.parent == "trunk" and result.validation["accuracy"] > 0.45


@both
def test_other_classes_are_refused_where_domains_change(lab, strategy):
    _, result = lab.one(strategy, "domain-incremental")
    store = lab.store()
    store.commit(result, {})
    with pytest.raises(RecipeError, match=r"task `second` has \[3, 4, 5\]"):
        learn(strategy, context_of(store, data_of("second"), (data_of("first"),)), setting="domain-incremental")


@both
def test_a_store_keeps_to_one_setting(lab, strategy):
    store, _, _ = lab.two(strategy, "task-incremental")
    with pytest.raises(RecipeError, match="`strategy.options.setting` is class-incremental"):
        learn(strategy, context_of(store, data_of("third", (0, 1, 2))), setting="class-incremental")
