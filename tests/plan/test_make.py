"""Plans: numbers of units, budgets, overrides, and settings that are refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tsn_toolkit.contracts import GroupPlan, LayerPlan
from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan import PlanSettings, choose_units, macs_after, make_plan, rounded_to_all
from tsn_toolkit.plan.budget import rounded_keep

sys.path.insert(0, str(Path(__file__).parent))
from plan_graph import hand_graph  # noqa: E402

GRAPH = hand_graph()


def keeps(plan):
    """Group -> number of units that stay."""
    return {group.name: group.keep for group in plan.groups}


def test_macs_after_by_hand():
    assert GRAPH.macs == 13_824 + 8_192 + 64 + 40
    assert macs_after(GRAPH, {}) == GRAPH.macs
    assert macs_after(GRAPH, {"a": 2, "b": 4}) == 2 * 27 * 64 + 4 * 2 * 64 + 4 * 4 + 40
    assert macs_after(GRAPH, {"b": np.arange(16) % 2 == 0}) == 13_824 + 8 * 8 * 64 + 4 * 8 + 40


@pytest.mark.parametrize(
    ("keep", "message"),
    [({"a": 0}, r"1\.\.8, got 0"), ({"a": 9}, "got 9"), ({"aa": 1}, "`aa`"), ({"a": np.ones(7, bool)}, r"\(7,\)"), ({"a": np.ones(8)}, "float64")],
)
def test_macs_after_refuses(keep, message):
    with pytest.raises(PlanError, match=message):
        macs_after(GRAPH, keep)


def test_defaults_and_overrides():
    settings = PlanSettings(
        units_keep=0.5,
        unit_overrides={"*": 0.75, "b": 0.25},
        density=0.2,
        bit_width=4,
        layer_overrides={"*": {"bit_width": 2}, "b": {"density": 1, "encoding": "shared"}},
        trunk_bit_width=5,
        max_code=63,
    )
    plan = make_plan(GRAPH, settings)
    assert plan.groups == (GroupPlan("a", 6, 8), GroupPlan("b", 4, 16))
    assert plan.layers == (
        LayerPlan("a", "codes", 0.2, "element", 2),
        LayerPlan("b", "shared", 1.0, "element", 2),
        LayerPlan("c", "codes", 0.2, "element", 2),
    )
    assert (plan.max_code, plan.trunk_bit_width, plan.fingerprint) == (63, 5, "ab" * 32)


def test_children_do_otherwise_in_the_layers_that_are_named():
    settings = PlanSettings(
        density=0.2, layer_overrides={"a": {"bit_width": 2}}, child_overrides={"a": {"density": 0.1}, "b": {"encoding": "shared"}}
    )
    plan = make_plan(GRAPH, settings)
    assert plan.child_layers == (LayerPlan("a", "codes", 0.1, "element", 2), LayerPlan("b", "shared", 0.2, "element", 4))
    assert plan.layers_of(child=False) == plan.layers
    assert plan.layers_of(child=True) == (*plan.child_layers, plan.layers[2])
    with pytest.raises(PlanError, match="keep one of the two"):
        make_plan(GRAPH, PlanSettings(density_by_layer="learned", child_overrides={"a": {"density": 0.1}}))
    with pytest.raises(PlanError, match=r"`child_overrides\.x` matches no layer"):
        make_plan(GRAPH, PlanSettings(child_overrides={"x": {"density": 0.1}}))


def test_rounding():
    assert keeps(make_plan(GRAPH, PlanSettings(units_keep=0.3))) == {"a": 2, "b": 5}
    assert keeps(make_plan(GRAPH, PlanSettings(units_keep=0.01, min_units=3))) == {"a": 3, "b": 3}
    assert keeps(make_plan(GRAPH, PlanSettings(units_keep=0.3, channel_multiple=4))) == {"a": 4, "b": 8}
    for size in range(1, 40):
        for fraction in (0.01, 0.33, 0.5, 0.99, 1.0):
            keep = rounded_keep(fraction, size, min_units=1, multiple=1)
            assert 1 <= keep <= size and (keep == 1 or abs(keep / size - fraction) <= 1 / size)


def test_groups_that_rounding_leaves_whole_are_named():
    said = "all units stay, as their number is rounded up to a multiple of 8 (`plan.channel_multiple`)"
    assert rounded_to_all(GRAPH, PlanSettings(units_keep=0.75, channel_multiple=8)) == [f"a, b: {said}"]
    assert rounded_to_all(GRAPH, PlanSettings(unit_overrides={"a": 0.75}, channel_multiple=8)) == [f"a: {said}"]
    assert rounded_to_all(GRAPH, PlanSettings(units_keep=0.75)) == []
    assert rounded_to_all(GRAPH, PlanSettings(channel_multiple=8)) == []
    assert rounded_to_all(GRAPH, PlanSettings(units_keep=0.1, min_units=16, channel_multiple=8)) == []
    assert rounded_to_all(GRAPH, PlanSettings(target_macs=0.9, channel_multiple=8)) == []


@pytest.mark.parametrize("multiple", [1, 2, 4])
@pytest.mark.parametrize("target", [0.4, 0.5, 0.75, 0.95])
def test_budget_holds_and_is_used(target, multiple):
    random = np.random.default_rng(0)
    scores = {"a": random.random(8), "b": random.random(16)}
    for unit_scores in (None, scores):
        plan = make_plan(GRAPH, PlanSettings(target_macs=target, channel_multiple=multiple), unit_scores=unit_scores)
        macs = macs_after(GRAPH, keeps(plan))
        assert macs <= target * GRAPH.macs
        if multiple == 1:  # one more unit of every shrunk group would exceed it
            assert macs_after(GRAPH, {name: keep + 1 for name, keep in keeps(plan).items()}) > target * GRAPH.macs
        assert all(group.keep % multiple == 0 or group.keep == group.size for group in plan.groups)


def test_greedy_takes_what_matters_least():
    """Group b's units are worthless, so they go first; a keeps all its units as long as that is enough."""
    scores = {"a": np.full(8, 10.0), "b": np.full(16, 1e-6)}
    assert keeps(make_plan(GRAPH, PlanSettings(target_macs=0.8), unit_scores=scores)) == {"b": 7}
    scores = {"a": np.full(8, 1e-6), "b": np.full(16, 10.0)}
    assert keeps(make_plan(GRAPH, PlanSettings(target_macs=0.8), unit_scores=scores)) == {"a": 6}


def test_overrides_are_kept_under_a_budget():
    plan = make_plan(GRAPH, PlanSettings(target_macs=0.8, unit_overrides={"a": 1.0}))
    assert keeps(plan) == {"b": 7}


def test_budget_out_of_reach():
    with pytest.raises(PlanError, match=r"`target_macs` 0\.01 cannot be reached.*frozen groups: c"):
        make_plan(GRAPH, PlanSettings(target_macs=0.01))
    with pytest.raises(PlanError, match=r"0\.5 cannot be reached"):
        make_plan(GRAPH, PlanSettings(target_macs=0.5, unit_overrides={"a": 1.0}))


def test_all_problems_at_once():
    settings = PlanSettings(
        units_keep=1.4,
        unit_overrides={"aa": 0.5, "c": 0.5},
        density=0.0,
        bit_width=9,
        layer_overrides={"x*": {"density": 0.5}, "a": {"bitwidth": 3, "granularity": "block"}, "head": {"density": 0.5}},
        max_code=True,
    )
    with pytest.raises(PlanError) as caught:
        make_plan(GRAPH, settings)
    text = str(caught.value)
    for part in (
        "`units_keep` must be a fraction in (0, 1], got 1.4",
        "`density` must be a fraction in (0, 1], got 0.0",
        "`bit_width` must be a whole number in 1..8, got 9",
        "`max_code` must be a whole number in 1..127, got True",
        "`bitwidth` of `layer_overrides.a` is unknown (did you mean 'bit_width'?)",
        "`granularity` of `layer_overrides.a` must be element, unit, block(k) or n:m with n at most m, got 'block'",
        "`unit_overrides.aa` matches no group",
        "`unit_overrides.c` matches only frozen groups: c: it is frozen [x.py:1]",
        "`layer_overrides.x*` matches no layer",
        "`layer_overrides.head` matches only the head",
    ):
        assert part in text, part


def test_two_ways_to_say_it_exclude_each_other():
    with pytest.raises(PlanError, match=r"`units_keep` \(0\.5\) and `target_macs` \(0\.4\)"):
        make_plan(GRAPH, PlanSettings(units_keep=0.5, target_macs=0.4))


def test_a_plan_that_changes_nothing():
    with pytest.raises(PlanError, match=r"change nothing(.|\n)*a: density 1, 8 bits, all units stay(.|\n)*c: .*frozen: it is frozen"):
        make_plan(GRAPH, PlanSettings(density=1.0, bit_width=8))
    assert keeps(make_plan(GRAPH, PlanSettings(density=1.0, bit_width=8, units_keep=0.5))) == {"a": 4, "b": 8}
    assert make_plan(GRAPH, PlanSettings(density=1.0, bit_width=7)).groups == ()


def test_choose_units():
    plan = make_plan(GRAPH, PlanSettings(units_keep=0.5))
    scores = {"a": np.array([1, 5, 1, 1, 9, 1, 1, 0.0]), "b": np.arange(16.0)}
    masks = choose_units(GRAPH, plan, scores)
    assert masks["a"].tolist() == [True, True, True, False, True, False, False, False]
    assert masks["b"].tolist() == [False] * 8 + [True] * 8
    with pytest.raises(PlanError, match="`a` must be finite, got nan at entry 2"):
        choose_units(GRAPH, plan, {**scores, "a": np.array([1, 1, np.nan, 1, 1, 1, 1, 1])})
    with pytest.raises(PlanError, match=r"group `b` must have shape \(16,\), got \(3,\)"):
        choose_units(GRAPH, plan, {**scores, "b": np.zeros(3)})
    with pytest.raises(PlanError, match="Scores of group `b` are missing, given are a"):
        choose_units(GRAPH, plan, {"a": scores["a"]})
