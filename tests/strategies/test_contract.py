"""What every store strategy promises: one seed one result, nothing touched, claims that hold, earlier tasks as they were."""

import copy
import dataclasses
import functools

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit import registry
from tsn_toolkit.extract import extract, masked_model
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import evaluate, predict

NEED_A_CHECKPOINT = {"frozen_trunk"}
NEED_A_SEED = {"wsn", "packnet", "supsup"}
STRATEGIES = [name for name in registry.names("tsn_toolkit.strategies") if registry.load("tsn_toolkit.strategies", name).ISOLATION == "exact"]
REFUSED = {"seed": NEED_A_CHECKPOINT, "checkpoint": NEED_A_SEED}
CASES = [(name, kind) for name in STRATEGIES for kind in REFUSED if name not in REFUSED[kind]]

pytestmark = pytest.mark.parametrize(("strategy", "kind"), CASES)


class Laboratory:
    """New stores, and what is learned only once for all tests of a strategy."""

    def __init__(self, factory):
        self._factory = factory
        self.learned = functools.cache(self._learned)
        self.two_tasks = functools.cache(self._two_tasks)

    def store(self, kind):
        return Store.create(self._factory.mktemp("strategies") / "store", trunk=samples.trunk(kind), graph=samples.graph(), recipe={})

    def _learned(self, strategy, kind):
        """The first task."""
        return samples.learn(strategy, samples.make_context(self.store(kind), samples.make_data()))

    def _two_tasks(self, strategy, kind):
        """A store with two tasks; what was known of the first before and after the second came."""
        store = self.store(kind)
        store.commit(self.learned(strategy, kind), {})
        before = known_of_first(store.path)
        parent = "trunk" if strategy in NEED_A_CHECKPOINT or kind == "checkpoint" else "first"
        context = samples.make_context(store, samples.make_data("second", (5, 3, 4)), parent=parent, seed=12)
        store.commit(samples.learn(strategy, context), {})
        return store, before, known_of_first(store.path)


def known_of_first(path):
    """Hash of the first task's integers, bytes of its part and of the trunk, logits on its test data, all from the folder."""
    store, data = Store.open(path), samples.make_data()
    model = extract(samples.factory, samples.graph(), store.weights("first")).model
    logits = predict(model, data.test, data, samples.CPU)
    return store.codes_hash("first"), (path / store.entry("first").path).read_bytes(), (path / store.trunk_entry.path).read_bytes(), logits


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory)


def test_the_same_seed_gives_the_same_result_and_arguments_stay_as_they_were(lab, strategy, kind):
    context = samples.make_context(lab.store(kind), samples.make_data())
    kept = copy.deepcopy(dataclasses.replace(context, factory=None, progress=None))
    again = samples.learn(strategy, context)
    samples.assert_equal(again, lab.learned(strategy, kind))
    samples.assert_equal(dataclasses.replace(context, factory=None, progress=None), kept)


def test_another_seed_gives_another_result(lab, strategy, kind):
    other = samples.learn(strategy, samples.make_context(lab.store(kind), samples.make_data(), seed=99))
    assert not np.array_equal(other.head.codes, lab.learned(strategy, kind).head.codes)


def test_global_state_is_put_back(lab, strategy, kind):
    torch.manual_seed(123)
    np.random.seed(5)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), np.random.get_state()[1].copy(), torch.get_default_dtype()
    samples.learn(strategy, samples.make_context(lab.store(kind), samples.make_data(), epochs=2))
    after = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled(), np.random.get_state()[1], torch.get_default_dtype()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[3], after[3])
    assert (before[1], before[2], before[4]) == (after[1], after[2], after[4])


def test_the_claims_are_what_the_stored_integers_score(lab, strategy, kind):
    result = lab.learned(strategy, kind)
    store, _, _ = lab.two_tasks(strategy, kind)
    data = samples.make_data()
    assert (result.name, result.parent, result.isolation, result.strategy, result.classes) == ("first", "trunk", "exact", strategy, (0, 1, 2))
    model = masked_model(samples.factory, samples.graph(), Store.open(store.path).weights("first"))
    loss, accuracy = evaluate(model, data.validation, data, samples.CPU)
    assert accuracy == result.validation["accuracy"]
    assert loss == pytest.approx(result.validation["loss"], rel=1e-6)
    assert accuracy > 0.45, "three classes: no better than guessing"


def test_test_data_decide_nothing(lab, strategy, kind):
    data = samples.make_data()
    other = dataclasses.replace(data, test=dataclasses.replace(data.test, x=255 - data.test.x, y=data.test.y.flip(0)))
    samples.assert_equal(samples.learn(strategy, samples.make_context(lab.store(kind), other)), lab.learned(strategy, kind))


def test_a_later_task_leaves_the_first_as_it_was(lab, strategy, kind):
    store, before, after = lab.two_tasks(strategy, kind)
    assert len(store.entries) == 2
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3]), "logits must be the same to the bit"


def test_reused_slots_hold_the_inherited_integers(lab, strategy, kind):
    store, _, _ = lab.two_tasks(strategy, kind)
    entry = store.entries[1]
    frozen, states, weights = store.frozen_view(entry.parent), store.states("second"), store.weights("second")
    reused = {name: states[name] == 1 for name in states}
    assert sum(mask.sum() for mask in reused.values()) > 0
    for name, mask in reused.items():
        np.testing.assert_array_equal(weights.q[name][mask], frozen[name].q[mask])
        assert frozen[name].present[mask].all()


def test_a_batch_of_one_answers_like_a_batch_of_many(lab, strategy, kind):
    store, _, _ = lab.two_tasks(strategy, kind)
    for data in (samples.make_data(), samples.make_data("second", (5, 3, 4))):
        model = extract(samples.factory, samples.graph(), store.weights(data.name)).model
        x = (data.test.x.float() / 255 - 0.5) / 0.25
        with torch.no_grad():
            together = model(x)
            alone = torch.cat([model(example[None]) for example in x])
        assert (together - alone).abs().max() <= 1e-5 * together.abs().max()
        assert torch.equal(together.argmax(1), alone.argmax(1))
