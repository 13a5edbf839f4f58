"""The meaning of the store, by hand: one layer of 2 outputs x 3 inputs, a trunk and two tasks.

All numbers below were computed on paper; nothing here calls the code that it checks to get an expectation.
"""

import numpy as np
import pytest

from tsn_toolkit.contracts import GroupMember, HeadState, LayerCodes, LayerRecord, ModelGraph, TaskResult, TrunkResult, UnitGroup
from tsn_toolkit.store.inspect import inspect_store
from tsn_toolkit.store.layer_blobs import known_slots
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
    {"fc": LayerCodes(np.full((2, 3), OWN, np.uint8), np.array([0, 1, 2, 3, 2, 1], np.uint8), np.array([-2, -1, 1, 3], np.int8), 2, ONES)},
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

# Masks, by docs/store-format.md: layout 0, marks 0 (used slots), no ancestors as context: 00; one word; the chances of the two runs.
#
# a: mask bits 110011, 4 of 6 set: F[88 hex] = 22016 of 32768 is nearest to two thirds. Of the four used slots, all present, REUSE is bits 0 1 0 1,
# half of them: chance 125 = 7d. Decoding ends with state 0; before the last symbol (number 10 of 16, each 2**20) it is 10 * 2**20. The first symbol
# is 51 of 64 with 4 ones: p = 1 + (2**24 - 64) * 22016**4 * 10752**2 // 2**90 = 368088, and the 51 symbols before it, by number of ones k = 0..5:
# 1, 6, 15, 18, 9, 2 of them with 20939, 42875, 87792, 179764, 368088, 753703, sum to 9651019. 10 * 2**20 = 28 * 368088 + 179296, so the word is
# 28 * 2**24 + 9651019 + 179296 = 1c95ffab hex.
A_MASKS = bytes.fromhex("00 01 abff951c 88 7d")
# b: mask bits 111110, 5 of 6 set: F[98 hex] = 27392; of the five used slots REUSE is 1 0 1 0 1, three of five: F[83 hex] = 19456. The second symbol,
# 21 of 32, begins at 8856324, so that is the state before it; the first, 31 of 64, begins at 1628958 and has 1123561.
# 8856324 = 7 * 1123561 + 991397, so the word is 7 * 2**24 + 1628958 + 991397 = 0727fbc3 hex.
B_MASKS = bytes.fromhex("00 01 c3fb2707 98 83")


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
    # Every scale is 1: half vectors f2 (exponent -14) 0074 0074 (2**14); the tasks' are as their parent's: 00. Head codes 1 -2 3 4 plus 8: 9 6 11 12.
    head = bytes.fromhex("04 00 69cb f200740074 f200740074")
    for path, layers, values, masks, codebook, scales in (
        ("trunk.safetensors", "02", TRUNK_VALUES, b"", "feff0103", "01 f200740074"),
        ("tasks/000-a.safetensors", "01", A_VALUES, A_MASKS, "fb07", "00"),
        ("tasks/001-b.safetensors", "03", B_VALUES, B_MASKS, "f8fafcfe02040608", "00"),
    ):
        _, blobs = read_part((store.path / path).read_bytes())
        assert blobs["values"] == b"\0" + values and blobs["masks"] == masks and blobs["head"] == head
        assert (blobs["layers"].hex(), blobs["codebooks"].hex(), blobs["scales"]) == (layers, codebook, bytes.fromhex(scales))


def test_states_come_back(store):
    assert store.states("a")["fc"].tolist() == A_STATES
    assert store.states("b")["fc"].tolist() == B_STATES


def test_sharing(store):
    found = inspect_store(store)["sharing"]
    assert (found["tasks"], found["owners"]) == (["a", "b"], ["trunk", "a", "b"])
    # a uses 4 slots: 2 of the trunk, 2 its own. b uses 5: 1 of the trunk (the 1), 2 of a (7 and -5), 2 its own.
    np.testing.assert_allclose(found["by_owner"], [[2 / 4, 2 / 4, 0], [1 / 5, 2 / 5, 2 / 5]])
    # Both read a's 7 and a's -5; where a reads the trunk's -1 (row 0), b reads its own 4.
    np.testing.assert_allclose(found["with_task"], [[1, 2 / 4], [2 / 5, 1]])
    np.testing.assert_allclose(found["layers"]["fc"]["used"], [4 / 6, 5 / 6])
    np.testing.assert_allclose(found["layers"]["fc"]["exclusive"], [2 / 6, 3 / 6])
    assert found["units"] == {}


def test_context_holds_the_task_ancestors_and_not_the_trunk(store):
    ((layer, trunk),) = store.layers("trunk")
    ((_, b),) = store.layers("b")
    kept = store.architecture.kept_slots({}, layer)
    assert known_slots(trunk.below, kept).contexts(0).tolist() == known_slots(trunk.below, kept).contexts(7).tolist() == [1] * 6
    # A child of b: 1 + 2 * (a uses the slot) + 4 * (b uses it), slot by slot.
    assert known_slots(b.below, kept).contexts(2).tolist() == [1 + 2 + 4, 1 + 2 + 4, 1 + 4, 1 + 4, 1 + 2 + 4, 1 + 2]
    assert known_slots(b.below, kept).contexts(1).tolist() == [3, 3, 3, 3, 3, 1]
