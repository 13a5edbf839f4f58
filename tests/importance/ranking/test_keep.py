"""Keep masks: hand-made rankings, a slow reference, and the rules that always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.contracts import GroupMember, LayerRecord, ModelGraph, UnitGroup
from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking import keep_units, keep_weights


def made_up(groups=(), layers=(), frozen=()):
    """A graph of groups (name, size) and layers (name, shape); the last layer is the head."""
    return ModelGraph(
        nodes=(),
        edges=(),
        layers=tuple(LayerRecord(name, "Linear", shape, 0) for name, shape in layers),
        groups=tuple(
            UnitGroup(name, size, (GroupMember(f"{name}.weight", 0, np.arange(size)),), (name,), "a reason" if name in frozen else "")
            for name, size in groups
        ),
        head=layers[-1][0] if layers else "",
        input_shape=(1,),
        fingerprint="",
    )


def kept(masks):
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


GRAPH = made_up([("b.0", 3), ("b.1", 3), ("stem", 4)])
SCORES = {"b.0": np.array([5.0, 1, 2]), "b.1": np.array([10.0, 30, 20]), "stem": np.array([0.1, 0.4, 0.2, 0.3])}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"b.0": [0], "b.1": [0, 1, 2], "stem": [1]}),
        ({"scope": "layer"}, {"b.0": [0, 2], "b.1": [1, 2], "stem": [1, 3]}),
        ({"scope": "isomorphic"}, {"b.0": [0], "b.1": [1, 2], "stem": [1, 3]}),
        ({"normalisation": "mean"}, {"b.0": [0], "b.1": [1, 2], "stem": [1, 3]}),
        ({"multiple": 2, "scope": "layer"}, {"b.0": [0, 2], "b.1": [1, 2], "stem": [1, 3]}),
        ({"min_units": 2}, {"b.0": [0, 2], "b.1": [1, 2], "stem": [1, 3]}),
        ({"share": 1.0}, {"b.0": [0, 1, 2], "b.1": [0, 1, 2], "stem": [0, 1, 2, 3]}),
        ({"share": 0.01}, {"b.0": [0], "b.1": [1], "stem": [1]}),
    ],
    ids=str,
)
def test_units_by_hand(changes, expected):
    assert kept(keep_units(GRAPH, SCORES, **{"share": 0.5, **changes})) == expected


def test_runs_of_a_multiple_count_their_mean_and_are_not_split():
    graph = made_up([("a", 6), ("b", 4)])
    scores = {"a": np.array([9.0, 9, 8, 0, 1, 1]), "b": np.array([9.0, 9, 5, 5])}  # runs of a: 9, 4, 1; of b: 9, 5
    assert kept(keep_units(graph, scores, 0.6, multiple=2)) == {"a": [0, 1], "b": [0, 1, 2, 3]}
    assert kept(keep_units(graph, scores, 0.7, multiple=2)) == {"a": [0, 1, 2, 4], "b": [0, 1, 2, 3]}  # seven are rounded up to eight
    assert [len(units) for units in kept(keep_units(graph, scores, 0.1, multiple=4)).values()] == [4, 4]


def test_ties_go_to_the_earlier_layer_and_the_lower_index():
    graph = made_up([("a", 3), ("b", 3)], [("a", (2, 2)), ("b", (2, 2))])
    assert kept(keep_units(graph, {"a": np.ones(3), "b": np.ones(3)}, 4 / 6)) == {"a": [0, 1, 2], "b": [0]}
    scores = np.arange(300) % 2.0  # many ties, which an unstable sort shuffles
    mask = keep_units(made_up([("a", 300)]), {"a": scores}, 250 / 300)["a"]
    assert np.flatnonzero(mask).tolist() == sorted([*range(1, 300, 2), *range(0, 200, 2)])
    masks = keep_weights(graph, {"a": np.ones((2, 2)), "b": np.ones((2, 2))}, 5 / 8)
    assert masks["a"].all() and np.flatnonzero(masks["b"]).tolist() == [0]


def test_frozen_groups_need_no_scores_and_get_no_mask():
    graph = made_up([("a", 2), ("b", 3)], frozen=["b"])
    assert kept(keep_units(graph, {"a": np.array([1.0, 2.0])}, 0.5)) == {"a": [1]}


@pytest.mark.parametrize(
    ("scope", "first", "second"),
    [
        ("global", [[0, 0, 1], [0, 0, 0]], [[1, 1], [1, 1]]),
        ("layer", [[0, 0, 1], [0, 1, 1]], [[0, 0], [1, 1]]),
        ("row", [[0, 1, 1], [0, 1, 1]], [[0, 1], [0, 1]]),  # the nearest even number to half of three is two
    ],
)
def test_weights_by_hand(scope, first, second):
    graph = made_up(layers=[("a", (2, 3)), ("b", (2, 2))])
    scores = {"a": np.array([[1.0, 2, 9], [3, 4, 5]]), "b": np.array([[10.0, 11], [20, 30]])}
    masks = keep_weights(graph, scores, 0.5, scope=scope)
    assert masks["a"].astype(int).tolist() == first and masks["b"].astype(int).tolist() == second


def test_weights_of_like_layers_compete():
    graph = made_up(layers=[("b.0.fc", (1, 4)), ("b.1.fc", (1, 4)), ("head", (1, 4))])
    scores = {"b.0.fc": np.array([[1.0, 2, 3, 4]]), "b.1.fc": np.array([[5.0, 6, 7, 8]]), "head": np.array([[0.1, 0.2, 0.3, 0.4]])}
    masks = keep_weights(graph, scores, 0.5, scope="isomorphic")
    assert kept(masks) == {"b.0.fc": [3], "b.1.fc": [1, 2, 3], "head": [2, 3]}


def test_a_head_with_another_number_of_classes_is_ranked():
    graph = made_up(layers=[("a", (2, 2)), ("head", (10, 2))])
    masks = keep_weights(graph, {"a": np.ones((2, 2)), "head": np.ones((3, 2))}, 1.0)
    assert masks["head"].shape == (3, 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weights_like_a_sort_of_everything(data):
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
    share = data.draw(st.floats(0.01, 1))
    scores = {f"l{i}": np.array(data.draw(st.lists(st.integers(0, 5), min_size=r * c, max_size=r * c)), float).reshape(r, c)
              for i, (r, c) in enumerate(shapes)}  # fmt: skip
    masks = keep_weights(made_up(layers=[(name, values.shape) for name, values in scores.items()]), scores, share)
    entries = [(name, index) for name, values in scores.items() for index in range(values.size)]
    chosen = {(name, int(values.argmax())) for name, values in scores.items()}
    total = max(len(chosen), round(share * len(entries)))
    for entry in sorted(entries, key=lambda e: -scores[e[0]].flat[e[1]]):
        if len(chosen) < total:
            chosen.add(entry)
    assert {(name, int(i)) for name, mask in masks.items() for i in np.flatnonzero(mask)} == chosen


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rules_of_unit_masks(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    share, multiple, least = data.draw(st.floats(0.01, 1)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    scope = data.draw(st.sampled_from(["global", "layer", "isomorphic"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    graph = made_up([(f"g{i}", size) for i, size in enumerate(sizes)])
    scores = {f"g{i}": rng.integers(0, 4, size).astype(float) for i, size in enumerate(sizes)}
    masks = keep_units(graph, scores, share, scope=scope, multiple=multiple, min_units=least)
    for name, mask in masks.items():
        size, count = len(mask), int(mask.sum())
        assert min(size, least) <= count and (count % multiple == 0 or count == size)
        if count < size:
            assert scores[name][mask].min() >= scores[name][~mask].max()
    kept_units, units = sum(int(mask.sum()) for mask in masks.values()), sum(sizes)
    if scope == "global":
        assert kept_units >= round(share * units)
        if multiple == least == 1:
            assert kept_units == max(len(sizes), round(share * units))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, r"`share` must be in \(0, 1\], got 0.0"),
        ({"share": float("nan")}, "got nan"),
        ({"multiple": 0}, "`multiple` must be at least 1, got 0"),
        ({"min_units": -1}, "`min_units` must be at least 1, got -1"),
        ({"scope": "row"}, "got 'row'"),
        ({"normalisation": "max"}, "got 'max'"),
        ({"scores": {}}, "Scores of group `b.0` are missing, given are none"),
        ({"scores": {**SCORES, "b.1": np.ones(2)}}, r"`b.1` must have shape \(3,\), got \(2,\)"),
        ({"scores": {**SCORES, "stem": np.array([1, 2, np.nan, 3])}}, "`stem` must be finite, got nan at entry 2"),
    ],
    ids=str,
)
def test_bad_settings_and_scores_are_refused(settings, message):
    arguments = {"scores": SCORES, "share": 0.5, **settings}
    with pytest.raises(PlanError, match=message):
        keep_units(GRAPH, **arguments)


def test_bad_weight_scores_are_refused():
    graph = made_up(layers=[("a", (2, 2)), ("head", (3, 2))])
    with pytest.raises(PlanError, match=r"layer `head` must have shape \(3, 2\), got \(3, 5\)"):
        keep_weights(graph, {"a": np.ones((2, 2)), "head": np.ones((3, 5))}, 0.5)
    with pytest.raises(PlanError, match="layer `head` are missing, given are a"):
        keep_weights(graph, {"a": np.ones((2, 2))}, 0.5)
