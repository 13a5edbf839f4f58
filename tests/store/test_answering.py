"""Who answers for a task: the newest revision that names it, in a partial store too, and a retirement may not change it."""

from dataclasses import replace

import pytest
import store_samples as samples

from tsn_toolkit.contracts import Revision
from tsn_toolkit.errors import StoreError
from tsn_toolkit.revisions import answer
from tsn_toolkit.store.answering import newest_part
from tsn_toolkit.store.packing import pack_store, unpack_store
from tsn_toolkit.store.retire import retire_task
from tsn_toolkit.store.store import Store


def commit(store, name, parent, names, seed):
    """A revision that answers for `names` and itself, label i being logit i."""
    rows = dict.fromkeys((*names, name), (0, 1))
    result = replace(samples.make_task(store, name, parent, seed=seed), isolation="none", revision=Revision(rows, task_known=True))
    store.commit(result, {})


@pytest.fixture
def store(tmp_path):
    """trunk -> first -> second -> third, of which the third answers for the first and the second for itself; `alone` answers beside them."""
    graph = samples.make_graph()
    store = Store.create(tmp_path / "store", trunk=samples.make_trunk(graph), graph=graph, recipe={})
    commit(store, "first", "trunk", (), 0)
    commit(store, "second", "first", ("first",), 1)
    commit(store, "third", "second", ("first",), 2)
    commit(store, "alone", "trunk", (), 3)
    return Store.open(store.path)


def test_the_newest_revision_that_names_a_task_answers_for_it(store):
    assert {entry.name: newest_part(store, entry.name) for entry in store.entries} == {
        "first": "third",
        "second": "second",
        "third": "third",
        "alone": "alone",
    }
    with pytest.raises(StoreError, match="no task `x`"):
        newest_part(store, "x")


@pytest.mark.parametrize(("task", "held"), [("first", ["first", "second", "third"]), ("second", ["first", "second"]), ("alone", ["alone"])])
def test_a_partial_store_answers_as_the_whole(store, tmp_path, task, held):
    image = pack_store(store, tmp_path / "device.tsn", [task])
    assert [entry.name for entry in image.entries] == held
    back = unpack_store(tmp_path / "device.tsn", tmp_path / "device")
    here, there = answer(store, task), answer(back, task)
    assert here.part == there.part and here.rows == there.rows and store.codes_hash(here.part) == back.codes_hash(there.part)


def test_an_answerer_of_another_lineage_comes_with_the_task(store, tmp_path):
    commit(store, "other", "alone", ("second",), 4)
    image = pack_store(store, tmp_path / "device.tsn", ["second"])
    assert [entry.name for entry in image.entries] == ["first", "second", "alone", "other"]


def test_a_revision_that_others_answer_through_is_not_retired(store):
    before = (store.path / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match=r"`third` cannot be retired, it is the revision that answers for \['first'\] too\..*into another store"):
        retire_task(store.path, "third")
    assert (store.path / "manifest.json").read_bytes() == before
    retire_task(store.path, "alone")
    assert [entry.name for entry in Store.open(store.path).entries] == ["first", "second", "third"]


def test_a_task_that_a_newer_revision_names_is_not_retired(store):
    commit(store, "newest", "third", ("alone",), 4)
    with pytest.raises(StoreError, match=r"`alone` cannot be retired, the revisions \['newest'\] answer for it too"):
        retire_task(store.path, "alone")


def test_a_damaged_revision_can_be_retired(store):
    """It answers for nobody any more, and no longer stands in the way of another."""
    part = store.path / store.entry("third").path
    part.write_bytes(part.read_bytes()[:-1])
    retire_task(store.path, "third")
    assert newest_part(Store.open(store.path), "first") == "second"
