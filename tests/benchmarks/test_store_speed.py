"""The synthetic stores are what they claim to be; ratios and the list of files read are right."""

import time

import numpy as np
import pytest
from store_speed import child
from store_speed.network import resnet18_graph
from store_speed.stores import DENSITY, KINDS, Chain
from store_speed.timing import Action, milliseconds, ratio, take_turns

from tsn_toolkit.vocabulary import SlotState

WIDTH = 16


def test_the_network_has_the_weights_of_a_resnet18():
    assert sum(int(np.prod(layer.shape)) for layer in resnet18_graph(64).layers if layer.name != "head") == 10_985_472 + 1_728 + 172_032


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_grows_and_reads_back(tmp_path, kind):
    chain = Chain(tmp_path / "store", kind, WIDTH)
    chain.grow(2)
    assert [entry.parent for entry in chain.store.entries] == ["trunk", "task0"]
    assert sum(q.size for q in chain.store.weights("task1").q.values()) == chain.size


@pytest.mark.parametrize("kind", ["element", "block(16)"])
def test_a_task_keeps_seventy_percent_of_its_parents_positions(tmp_path, kind):
    chain = Chain(tmp_path / "store", kind, WIDTH)
    chain.grow(2)
    before, after = (np.concatenate([s.ravel() for s in chain.store.states(name).values()]) != SlotState.PRUNED for name in ("task0", "task1"))
    assert before.mean() == pytest.approx(DENSITY[kind], rel=0.02) and after.mean() == pytest.approx(DENSITY[kind], rel=0.02)
    assert (before & after).sum() / before.sum() == pytest.approx(0.7, abs=0.02)


def test_a_ratio_compares_within_a_turn():
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0
    assert milliseconds([0.001, 0.002, 0.003]) == {"median": 2.0, "q1": 1.5, "q3": 2.5}


def test_actions_take_turns():
    seen: list[str] = []
    actions = {name: Action(seen.append, lambda name=name: name) for name in "ab"}
    seconds = take_turns(actions, 2, before=lambda: seen.append("-"))
    assert "".join(seen) == "-a-b-a-b" and [len(times) for times in seconds.values()] == [2, 2]


def test_a_fresh_action_runs_in_another_process():
    seen: list[float] = []
    seconds = take_turns({"sleep": Action(lambda _: seen.append(time.sleep(0.02)))}, 2, fresh=True)["sleep"]
    assert not seen and all(0.02 <= value < 2 for value in seconds)
    with pytest.raises(RuntimeError, match="failed in its process"):
        take_turns({"fail": Action(lambda _: 1 / 0)}, 1, fresh=True)


def test_one_task_reads_its_chain_alone(tmp_path):
    chain = Chain(tmp_path / "store", "element", 4)
    chain.grow(3)
    chain.store.commit(chain.next_task("trunk"), {})
    read = child.files(str(tmp_path / "store"), "task1")["materialise"]
    assert read == {"files": 2, "bytes": sum(entry.size_bytes for entry in chain.store.entries[:2])}
