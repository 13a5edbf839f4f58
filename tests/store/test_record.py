"""The architecture record comes back as it went in, whatever the unit arrays look like."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import store_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.contracts import GroupMember
from tsn_toolkit.store.layout import StoredGroup
from tsn_toolkit.store.part import PartError
from tsn_toolkit.store.record import architecture_from_graph, architecture_from_json, architecture_to_json

ARCHITECTURE = architecture_from_graph(samples.make_graph(), samples.SEED_TRUNK)


def with_units(units, size):
    return replace(ARCHITECTURE, groups=(StoredGroup("g", size, (GroupMember("x.weight", 1, np.array(units, np.int64)),)),))


@given(st.integers(1, 7).flatmap(lambda size: st.tuples(st.lists(st.integers(-1, size - 1), max_size=20), st.just(size))))
@settings(max_examples=300, deadline=None)
def test_any_units_come_back(case):
    units, size = case
    value = json.loads(json.dumps(architecture_to_json(with_units(units, size))))
    assert architecture_from_json(value).groups[0].members[0].unit.tolist() == units


@pytest.mark.parametrize(
    ("units", "size", "stored"),
    [
        ([0, 1, 2], 3, "="),
        ([0, 0, 1, 1], 2, 2),
        ([-1, -1, 0, 1, 2, -1], 3, [[-1, 0, 2], [0, 1, 3], [-1, 0, 1]]),
        ([-1, 0], 1, [[-1, 0, 1], [0, 0, 1]]),
    ],
)
def test_units_are_compact(units, size, stored):
    assert architecture_to_json(with_units(units, size))["groups"][0][2][0][2] == stored


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([[0, 1, 10**12]], "1000000000000"),
        ([[0, 1, 4]], "leaves the group's 3 units"),
        ([[3, 0, 1]], "got 3"),
        ([[-2, 0, 1]], "got -2"),
        (10**9, "got 1000000000"),
        ("x", "got 'x'"),
        ([[0, 1]], "a list of 3"),
    ],
)
def test_refuses_bad_units(units, message):
    value = architecture_to_json(with_units([0], 3))
    value["groups"][0][2][0][2] = units
    with pytest.raises(PartError, match=message):
        architecture_from_json(value)


def test_refuses_units_beyond_a_layer_before_it_lists_them():
    value = architecture_to_json(ARCHITECTURE)
    rows = next(rows for _, _, rows in value["groups"] if any(row[:2] == ["fc.weight", 1] for row in rows))
    next(row for row in rows if row[:2] == ["fc.weight", 1])[2] = 1 << 20
    tracemalloc.start()
    with pytest.raises(PartError, match="dimension 1 of `fc.weight` do not fit its shape"):
        architecture_from_json(value)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_refuses_a_record_that_asks_for_too_much_memory():
    value = architecture_to_json(ARCHITECTURE)
    value["layers"] = [["big", [1 << 14, 1 << 14, 2]]]
    with pytest.raises(PartError, match="16384"):
        architecture_from_json(value)


def test_kept_slots_of_the_sample_net():
    masks = {"conv1": np.array([True, False] * 3), "conv2": np.array([True, False, False, True])}
    for layer in ARCHITECTURE.layers:
        expected = samples.expand(masks, samples.make_graph())[layer.name]
        kept = ARCHITECTURE.kept_slots(masks, layer)
        np.testing.assert_array_equal(kept.spread(np.ones(kept.size, bool)), expected)
        numbers = np.arange(layer.size).reshape(layer.shape)
        np.testing.assert_array_equal(kept.take(numbers), numbers[expected])
        np.testing.assert_array_equal(kept.spread(kept.take(numbers)), numbers * expected)
        assert kept.size == expected.sum() and kept.row_length == expected.reshape(layer.shape[0], -1).sum(axis=1).max()
    assert ARCHITECTURE.kept_entries(masks, "bn1", 6).tolist() == [True, False] * 3
    assert ARCHITECTURE.kept_entries(masks, "conv2", 4).tolist() == [True, False, False, True]
    assert ARCHITECTURE.kept_entries(masks, "elsewhere", 2).all()
