"""The meaning of the store, by hand: one layer of 2 outputs x 3 inputs, a trunk and two tasks.

All numbers below were computed on paper; nothing here calls the code that it checks to get an expectation.
"""

import numpy as np
import pytest

from tsn_toolkit.contracts import GroupMember, HeadState, LayerCodes, LayerRecord, ModelGraph, TaskResult, TrunkResult, UnitGroup
from tsn_toolkit.store.inspect import sharing_matrix
from tsn_toolkit.store.lineage import slot_context
from tsn_toolkit.store.part import read_part
from tsn_toolkit.store.store import Store

PRUNED, REUSE, OWN = 0, 1, 2
ONES = np.ones(2, np.float32)
HEAD = HeadState(np.array([[1, -2], [3, 4]], np.int8), ONES, ONES)

GRAPH = ModelGraph(
    nodes=(),
    edges=(),
    layers=(LayerRecord("fc", "Linear", (2, 3), 6), LayerRecord("head", "Linear", (2, 2), 4)),
    groups=(UnitGroup("fc", 2, (GroupMember("fc.weight", 0, np.arange(2)), GroupMember("head.weight", 1, np.arange(2))), ("fc",)),),
    head="head",
    input_shape=(3,),
    fingerprint="by hand",
)

# Trunk: 2 bits, codebook -2 -1 1 3; codes 0 1 2 / 3 2 1 mean q = -2 -1 1 / 3 1 -1.
TRUNK = TrunkResult(
    "checkpoint",
    0,
    {
        "fc": LayerCodes(
            np.full((2, 3), OWN, np.uint8), np.array([0, 1, 2, 3, 2, 1], np.uint8), np.array([-2, -1, 1, 3], np.int8), 2, ONES
        )
    },
    {},
    {},
    HEAD,
)
# 00 | 01 << 2 | 10 << 4 | 11 << 6 = 11 10 01 00 = e4; then 10 | 01 << 2 = 06.
TRUNK_VALUES = bytes.fromhex("e406")

# Task a, child of the trunk: 1 bit, codebook -5 7.
#   states  OWN  REUSE PRUNED    codes 1 . .    q_a   7 -1  0
#           PRUNED OWN REUSE           . 0 .          0 -5 -1
A_STATES = [[OWN, REUSE, PRUNED], [PRUNED, OWN, REUSE]]
A_CODES, A_BOOK, A_Q = [1, 0], [-5, 7], [[7, -1, 0], [0, -5, -1]]
A_VALUES = bytes.fromhex("01")  # 1 | 0 << 1
# The frozen view of a keeps the trunk's values where a owns nothing, also where a is PRUNED:
A_VIEW = [[7, -1, 1], [3, -5, -1]]

# Task b, child of a: 3 bits, codebook -8 -6 -4 -2 2 4 6 8.
#   states  REUSE OWN   REUSE    codes . 5 .    q_b   7  4  1   (7 from a, 1 from the trunk, which a did not use)
#           OWN   REUSE PRUNED         0 . .         -8 -5  0
B_STATES = [[REUSE, OWN, REUSE], [OWN, REUSE, PRUNED]]
B_CODES, B_BOOK, B_Q = [5, 0], [-8, -6, -4, -2, 2, 4, 6, 8], [[7, 4, 1], [-8, -5, 0]]
B_VALUES = bytes.fromhex("05")  # 5 | 0 << 3
B_VIEW = [[7, 4, 1], [-8, -5, -1]]

# Mask tables: every slot has context 1 (the trunk is everywhere). Counts of a: 2 2 2 -> floor(2 * 32768 / 6) = 10922 each, the missing 2 go to the
# first of the largest: PRUNED 10924 = 2aac, REUSE 10922 = 2aaa. Counts of b: 1 3 2 -> 5461, 16384, 10922, missing 1: PRUNED 5461 = 1555, REUSE
# 16385 = 4001. (With a's symbols as context b would need three tables: more bytes, so depth 0.)
A_TABLE, B_TABLE = bytes.fromhex("ac2aaa2a"), bytes.fromhex("55150140")


def task(name: str, parent: str, states: list, codes: list, book: list, bit_width: int) -> TaskResult:
    layer = LayerCodes(np.array(states, np.uint8), np.array(codes, np.uint8), np.array(book, np.int8), bit_width, ONES)
    return TaskResult(name, parent, "exact", "hand", (0, 1), {}, {"fc": layer}, {}, {}, HEAD, {})


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "store", trunk=TRUNK, graph=GRAPH, recipe={})
    store.commit(task("a", "trunk", A_STATES, A_CODES, A_BOOK, 1), {})
    store.commit(task("b", "a", B_STATES, B_CODES, B_BOOK, 3), {})
    return Store.open(tmp_path / "store")


def test_weights_are_the_integers_on_paper(store):
    assert store.weights("a").q["fc"].tolist() == A_Q
    assert store.weights("b").q["fc"].tolist() == B_Q


def test_frozen_views(store):
    for owner, view in (("trunk", [[-2, -1, 1], [3, 1, -1]]), ("a", A_VIEW), ("b", B_VIEW)):
        layer = store.frozen_view(owner)["fc"]
        assert layer.q.tolist() == view and layer.present.all()


def test_bytes_in_the_files(store):
    for path, values, masks in (
        ("trunk.safetensors", TRUNK_VALUES, b""),
        ("tasks/000-a.safetensors", A_VALUES, A_TABLE),
        ("tasks/001-b.safetensors", B_VALUES, B_TABLE),
    ):
        _, blobs = read_part((store.path / path).read_bytes())
        assert blobs["values"] == values
        # The symbols follow the tables: 6 symbols of 1.6 bits fit one 32-bit word.
        assert blobs["masks"][: len(masks)] == masks and len(blobs["masks"]) == len(masks) + (4 if masks else 0)


def test_states_come_back(store):
    assert store.states("a")["fc"].tolist() == A_STATES
    assert store.states("b")["fc"].tolist() == B_STATES


def test_sharing(store):
    names, matrix = sharing_matrix(store)
    assert names == ("trunk", "a", "b")
    # a uses 4 slots: 2 of the trunk, 2 its own. b uses 5: 1 of the trunk (the 1), 2 of a (7 and -5), 2 its own.
    np.testing.assert_allclose(matrix, [[2 / 4, 2 / 4, 0], [1 / 5, 2 / 5, 2 / 5]])


def test_context_holds_the_task_ancestors_and_not_the_trunk(store):
    layer, kept = store.architecture.layers[0], np.ones((2, 3), bool)
    assert slot_context(store.decoded("trunk"), layer, kept).numbers(0).tolist() == [1] * 6
    assert not slot_context(store.decoded("trunk"), layer, kept).ancestors
    # A child of b: 1 + 2 * (symbol of b) + 6 * (symbol of a), slot by slot.
    assert slot_context(store.decoded("b"), layer, kept).numbers(2).tolist() == [1 + 2 + 12, 1 + 4 + 6, 1 + 2 + 0, 1 + 4 + 0, 1 + 2 + 12, 1 + 0 + 6]
    assert len(slot_context(store.decoded("b"), layer, kept).ancestors) == 2
