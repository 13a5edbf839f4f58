"""`ewc`, `lwf` and `joint` each do what they are for, on a second task that fine-tuning from the same revision learns at the cost of the first."""

import functools

import learning_samples as samples
import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.extract import extract
from tsn_toolkit.revisions import answer
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies import joint
from tsn_toolkit.trainer.loop import evaluate, predict

FIRST, SECOND = samples.make_data(), samples.make_data("second", (5, 3, 4))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """By strategy: the result of its first task, and a function that gives stores which hold it."""

    def new_store():
        return Store.create(tmp_path_factory.mktemp("holding") / "store", trunk=samples.trunk("seed"), graph=samples.graph(), recipe={})

    @functools.cache
    def result(strategy):
        return samples.learn(strategy, samples.make_context(new_store(), FIRST))

    def store_of(strategy):
        store = new_store()
        store.commit(result(strategy), {})
        return store

    return store_of


def learn_second(store, strategy, **options):
    """Commits the second task to a store of one."""
    context = samples.make_context(store, SECOND, parent="first", revision=store.revision("first"), earlier=lambda: (FIRST,))
    store.commit(samples.learn(strategy, context, **options), {})
    return store


def network(store, task):
    """The network that answers for a task, with that task's logits."""
    return extract(samples.factory, samples.graph(), answer(store, task).weights).model


def test_ewc_moves_important_weights_less_than_fine_tuning(first):
    """Over all layers, each weight's squared movement times its importance; a penalty of no strength is fine-tuning."""
    fisher, start = first("ewc").revision("first").memory, first("ewc").dense_weights("first")

    def moved(strategy, **options):
        ends = learn_second(first("ewc"), strategy, **options).dense_weights("second")
        return sum(float((fisher[f"{name}.weight"] * (ends[name] - weight) ** 2).sum()) for name, weight in start.items() if name in ends)

    held, loose = moved("ewc", strength=10.0), moved("finetune")
    assert 0 < held < 0.1 * loose and moved("ewc", strength=0.0) == loose


def test_lwf_keeps_old_answers_closer_than_fine_tuning(first):
    """Probabilities of the first task's classes at temperature 2, on inputs of either task."""

    def drift(strategy, data, **options):
        before, after = first("lwf"), learn_second(first("lwf"), strategy, **options)
        old, new = ((predict(network(store, "first"), data.test, data, samples.CPU) / 2).softmax(1) for store in (before, after))
        return float((new - old).abs().mean())

    for data in (FIRST, SECOND):
        assert 0 < drift("lwf", data, strength=20.0) < 0.6 * drift("finetune", data)


def test_joint_trains_on_the_union_and_the_first_task_stays(first, monkeypatch):
    before, seen, real = first("joint"), [], joint.train_shared_

    def watch(network, *rest, **options):
        seen.append(network.data)
        return real(network, *rest, **options)

    monkeypatch.setattr(joint, "train_shared_", watch)
    after = learn_second(first("joint"), "joint")
    (data,) = seen
    for name in ("train", "validation"):
        union, parts = getattr(data, name), [getattr(task, name) for task in (FIRST, SECOND)]
        assert torch.equal(union.x, torch.cat([part.x for part in parts]))
        assert torch.equal(union.y, torch.cat([parts[0].y, parts[1].y + 3])), "logits of the second task stand behind the first's"
    assert isinstance(data.test, Split) and torch.equal(data.test.x, SECOND.test.x), "test data of earlier tasks take no part"
    accuracies = [evaluate(network(store, "first"), FIRST.test, FIRST, samples.CPU)[1] for store in (before, after)]
    assert accuracies[1] >= accuracies[0] > 0.6
