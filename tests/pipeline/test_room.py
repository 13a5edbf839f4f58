"""Tasks that the words have no room for are refused before the first, or before they are learned; one that may run out of bits is warned of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tsn_toolkit import registry
from tsn_toolkit.contracts import CompressionPlan, GroupPlan, HeadState, LayerCodes, LayerPlan, LayerRecord, ModelGraph, TaskResult, TrunkResult
from tsn_toolkit.errors import RecipeError, StoreError
from tsn_toolkit.pipeline import learning
from tsn_toolkit.pipeline.room import check_room, check_room_for_all
from tsn_toolkit.recipe.schema import PostTrainingSection
from tsn_toolkit.store.store import Store

SHAPES = {"fc1": (3, 2), "fc2": (2, 3), "head": (2, 2)}
GRAPH = ModelGraph((), (), tuple(LayerRecord(name, "Linear", shape, 1) for name, shape in SHAPES.items()), (), "head", (2,), "room")
PRUNED, REUSE, OWN = range(3)


def commit(store, name, *, parent="trunk", bits=4, fc2=OWN):
    """A task that owns all of fc1, and of fc2 what `fc2` says."""
    layers = {}
    for layer, state in (("fc1", OWN), ("fc2", fc2)):
        states = np.broadcast_to(np.asarray(state, np.uint8), SHAPES[layer]).copy()
        codes, ones = np.zeros(int((states == OWN).sum()), np.uint8), np.ones(len(states), np.float32)
        layers[layer] = LayerCodes(states, codes, np.arange(1 << bits).astype(np.int8), bits, ones)
    head = HeadState(np.ones((2, 2), np.int8), np.ones(2, np.float32), np.zeros(2, np.float32))
    store.commit(TaskResult(name, parent, "exact", "sample", (0, 1), {}, layers, {}, {}, head, {}), {})


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", trunk=TrunkResult("seed", 0, {}, {}, {}, None, word_bits=8), graph=GRAPH, recipe={})


def context(store, *, parent="trunk", encodings=("codes", "codes"), child=(), rule="uniform"):
    """What is asked of a task's context, with a plan of these encodings for fc1 and fc2."""
    layers = tuple(LayerPlan(name, encoding, 0.5, "element", 4) for name, encoding in zip(SHAPES, encodings, strict=False))
    changed = tuple(layer for layer in layers if layer.name in child)
    return SimpleNamespace(
        plan=CompressionPlan("room", 127, 8, layers, (), rule, changed),
        inherited=store.frozen_view(parent),
        start=None if parent == "trunk" else object(),
        data=SimpleNamespace(name="next"),
    )


def said(store, context, *, by_encoding=True):
    lines = []
    check_room(store, context, lines.append, by_encoding=by_encoding)
    return lines


def test_room_for_sure_is_not_spoken_of(store):
    assert said(store, context(store)) == []
    commit(store, "a", bits=4)
    assert said(store, context(store)) == []  # 4 of 8 bits are left, as many as the last task took


def test_a_slot_that_may_run_out_is_warned_of(store):
    commit(store, "a", bits=3)
    commit(store, "b", bits=4, fc2=PRUNED)  # fc1 has one bit left
    (line,) = said(store, context(store))
    assert line.startswith("warning: task `next` may ask for more bits") and "larger `trunk.word_bits`" in line


def fill(store):
    """No bit is left in fc1; fc2 has all of them, and a child of `b` inherits all of fc1 and none of fc2."""
    commit(store, "a", bits=4, fc2=PRUNED)
    commit(store, "b", bits=4, fc2=PRUNED)


SURE = {
    "nothing is inherited": {},
    "nothing is inherited, whatever the encoding": {"by_encoding": False},
    "own slots over a full view": {"parent": "b"},
    "a plane": {"parent": "b", "encodings": ("planes", "codes")},
    "changes of a child": {"parent": "b", "child": ("fc1",)},
    "nothing is inherited and densities are learned": {"rule": "learned"},
}


@pytest.mark.parametrize("case", SURE)
def test_a_layer_without_a_bit_is_refused_where_the_task_will_own_slots(store, case):
    fill(store)
    options = dict(SURE[case])
    by_encoding = options.pop("by_encoding", True)
    with pytest.raises(StoreError, match=r"task `next` cannot be learned.*layers \['fc1'\], whose words of 8 bits have none left\. Retire"):
        said(store, context(store, **options), by_encoding=by_encoding)


NOT_SURE = {
    "a shared layer": {"parent": "b", "encodings": ("shared", "codes")},
    "a strategy that owns only what nobody does": {"parent": "b", "by_encoding": False},
    "learned densities": {"parent": "b", "rule": "learned"},
}


@pytest.mark.parametrize("case", NOT_SURE)
def test_it_is_a_warning_where_the_task_may_do_without(store, case):
    fill(store)
    options = dict(NOT_SURE[case])
    by_encoding = options.pop("by_encoding", True)
    assert len(said(store, context(store, **options), by_encoding=by_encoding)) == 1


def test_what_is_refused_would_be_refused_by_the_commit(store):
    fill(store)
    with pytest.raises(StoreError, match="layer `fc1` asks for 1 bits at a slot that has 0 of its 8 left"):
        commit(store, "c", bits=1)


def test_nothing_is_trained_for_a_task_without_room(store, monkeypatch):
    fill(store)
    strategy = SimpleNamespace(ISOLATION="exact", BY_ENCODING=True, learn=lambda *_: pytest.fail("it was trained"), Config=dict)
    monkeypatch.setattr(registry, "load", lambda *_: strategy)
    monkeypatch.setattr(learning, "plan_from_dict", lambda _: None)
    monkeypatch.setattr(learning, "task_context", lambda *_: context(store))
    monkeypatch.setattr(Store, "recipe", lambda *_: {"resolved_plan": None})
    sections = {"task_inference": SimpleNamespace(rule="told"), "post_training": PostTrainingSection()}
    recipe = SimpleNamespace(strategy=SimpleNamespace(name="any", options={}), **sections)
    shop = SimpleNamespace(graph=SimpleNamespace(input_shape=(3,), numbers_below=0))
    data = SimpleNamespace(train=SimpleNamespace(x=torch.zeros(2, 3)))
    with pytest.raises(StoreError, match="task `next` cannot be learned"):
        learning.learn_and_commit(recipe, store, shop, data, 0, SimpleNamespace(say=lambda _: None))
    strategy.ISOLATION = "none"  # a revision stands beside the words
    with pytest.raises(pytest.fail.Exception, match="it was trained"):
        learning.learn_and_commit(recipe, store, shop, data, 0, SimpleNamespace(say=lambda _: None))


def all_tasks(*layers, tasks=10, word_bits=32, trained_trunk=False, inherits=True, rule="uniform", groups=(), child=()):
    """Whether a plan of these layers is refused for so many tasks."""
    plan = CompressionPlan("room", 127, 8, layers, groups, rule, child)
    try:
        check_room_for_all(plan, tasks=tasks, word_bits=word_bits, trained_trunk=trained_trunk, inherits=inherits)
    except RecipeError as error:
        return str(error)
    return ""


def layer(encoding="codes", density=1.0, bit_width=4):
    return LayerPlan("fc1", encoding, density, "element", bit_width)


def test_a_layer_that_every_task_owns_whole_needs_as_many_words_as_tasks():
    assert all_tasks(layer(), tasks=8) == ""  # 8 times 4 bits fill the word
    assert "layer `fc1`: 9 tasks are sure to ask for 36 bits" in all_tasks(layer(), tasks=9)
    assert "Set it to 36 or more" in all_tasks(layer(), tasks=9)


def test_children_own_for_certain_what_the_plan_gives_them():
    half = layer(density=0.5)
    assert all_tasks(half, tasks=100) == ""  # children may do with what they inherit
    assert "20 bits" in all_tasks(half, tasks=10, word_bits=16, inherits=False)
    assert all_tasks(half, tasks=9, word_bits=18, child=(layer(density=0.25),)) == ""  # 2 + 8 times 1
    assert "11 bits" in all_tasks(half, tasks=10, word_bits=10, child=(layer(density=0.25),))


def test_planes_and_a_trained_trunk_count():
    assert all_tasks(layer("planes"), tasks=32) == ""
    assert "33 bits" in all_tasks(layer("planes"), tasks=33)
    assert all_tasks(layer(density=0.5), tasks=12, trained_trunk=True, inherits=False) == ""
    assert "34 bits" in all_tasks(layer(density=0.5), tasks=13, trained_trunk=True, inherits=False)


def test_what_the_plan_leaves_open_is_not_refused():
    assert all_tasks(layer("shared"), tasks=100) == ""
    assert all_tasks(layer(), tasks=100, rule="learned") == ""
    assert all_tasks(layer(), tasks=100, groups=(GroupPlan("fc1", 3, 2),)) == ""
