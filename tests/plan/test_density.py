"""Densities of layers: divided by shape, fixed by a granularity or an encoding, and budgets that cannot be met."""

import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.contracts import LayerPlan
from tsn_toolkit.errors import PlanError
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.plan import PlanSettings, check_plan, load_plan, make_plan, save_plan, switched_layers
from tsn_toolkit.plan.density import divide_by_shape, own_density
from tsn_toolkit.plan.macs import kept_shapes

sys.path.insert(0, str(Path(__file__).parent))
from plan_graph import hand_graph  # noqa: E402

GRAPH = hand_graph()


def codes(name, density=0.5):
    return LayerPlan(name, "codes", density, "element", 4)


def kept(layers, shapes):
    """Slots that the `codes` layers keep."""
    return {layer.name: keep_count(layer.density, prod(shapes[layer.name])) for layer in layers if layer.encoding == "codes"}


def test_erk_by_hand():
    shapes = {"conv": (64, 32, 3, 3), "linear": (512, 1024)}
    small, large = divide_by_shape([codes("conv"), codes("linear")], shapes, 0.1, ())
    # 102 / 18432 to 1536 / 524288 per unit of the factor; together 54272 of 542720 slots
    factor = 54272 / (102 + 1536)
    assert small.density == pytest.approx(factor * 102 / 18432, abs=1 / 18432)
    assert large.density == pytest.approx(factor * 1536 / 524288, abs=1 / 524288)
    assert sum(kept([small, large], shapes).values()) == 54272


def test_a_layer_is_never_more_than_full_and_the_others_take_the_rest():
    shapes = {"tiny": (4, 2, 1, 1), "large": (64, 64)}
    tiny, large = divide_by_shape([codes("tiny"), codes("large")], shapes, 0.5, ())
    assert tiny.density == 1.0
    assert kept([tiny, large], shapes) == {"tiny": 8, "large": round(0.5 * (8 + 4096)) - 8}


@settings(max_examples=150, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=6),
    density=st.floats(0.02, 1),
)
def test_the_budget_is_met_to_the_slot_and_smaller_layers_are_denser(shapes, density):
    named = {f"l{number}": shape for number, shape in enumerate(shapes)}
    total = keep_count(density, sum(map(prod, shapes)))
    if total < len(shapes):
        return
    layers = divide_by_shape([codes(name) for name in named], named, density, ())
    counts = kept(layers, named)
    assert sum(counts.values()) == total and all(0 < layer.density <= 1 for layer in layers)
    for name, shape in named.items():
        for other, wider in named.items():
            if sum(shape) / prod(shape) > sum(wider) / prod(wider) and 1 < counts[name] < prod(shape) and counts[other] > 1:
                assert counts[name] / prod(shape) >= counts[other] / prod(wider) - 1 / prod(shape) - 1 / prod(wider)


def test_given_densities_count_towards_the_budget_and_other_encodings_do_not():
    shapes = {"a": (10, 10), "b": (20, 20), "c": (20, 20), "d": (30, 30)}
    layers = [codes("a", 0.9), codes("b"), codes("c"), replace(codes("d"), encoding="shared")]
    first, second, third, shared = divide_by_shape(layers, shapes, 0.2, ("a",))
    assert first.density == 0.9 and shared == layers[3]
    assert kept([first, second, third], shapes) == {"a": 90, "b": 45, "c": 45}


@pytest.mark.parametrize(
    ("density", "given", "message"),
    [
        (0.1, {"a": 1.0}, r"`density` 0\.1 cannot be reached: 50 slots in all.*\(a\) take 100, and the others \(b\) need 1 to 400"),
        (0.9, {"a": 0.1}, r"450 slots in all.*\(a\) take 10, and the others \(b\) need 1 to 400"),
        (0.5, {"a": 0.1, "b": 0.1}, r"the others \(none\) need 0 to 0"),
    ],
)
def test_a_budget_that_cannot_be_met(density, given, message):
    layers = [codes("a", given["a"]), codes("b", given.get("b", 0.5))]
    with pytest.raises(PlanError, match=message):
        divide_by_shape(layers, {"a": (10, 10), "b": (20, 20)}, density, tuple(given))


def test_what_fixes_a_density():
    assert own_density("codes", "2:4") == 0.5 and own_density("codes", "unit") == 1.0 and own_density("planes", "unit") == 1.0
    assert own_density("codes", "block(4)") is None and own_density("shared", "unit") is None


@pytest.mark.parametrize("rule", ["erk", "learned"])
def test_a_plan_divides_inside_the_kept_units(rule):
    plan = make_plan(GRAPH, PlanSettings(density=0.3, density_by_layer=rule, units_keep=0.5))
    shapes = kept_shapes(GRAPH, {group.name: group.keep for group in plan.groups})
    assert shapes == {"a": (4, 3, 3, 3), "b": (8, 4, 1, 1), "c": (4, 8), "head": (10, 4)}
    assert sum(kept(plan.layers, shapes).values()) == round(0.3 * (108 + 32 + 32))
    assert plan.density_by_layer == rule and plan.layers[1].density > plan.layers[0].density


def test_a_granularity_sets_its_density():
    overrides = {"c": {"granularity": "unit"}, "b": {"granularity": "block(4)"}}
    plan = make_plan(GRAPH, PlanSettings(density=0.3, granularity="2:4", layer_overrides=overrides))
    assert [(layer.granularity, layer.density) for layer in plan.layers] == [("2:4", 0.5), ("block(4)", 0.3), ("unit", 1.0)]
    with pytest.raises(PlanError, match=r"`density` of layer `a` must be 0\.5, which granularity 2:4 fixes, got 0\.4"):
        make_plan(GRAPH, PlanSettings(granularity="2:4", layer_overrides={"a": {"density": 0.4}}))
    with pytest.raises(PlanError, match=r"`granularity` must be .* n at most m, got '4:2'"):
        make_plan(GRAPH, PlanSettings(granularity="4:2"))


def test_layers_with_a_density_of_their_own_count_towards_a_budget():
    plan = make_plan(GRAPH, PlanSettings(density=0.3, density_by_layer="erk", layer_overrides={"b": {"granularity": "2:4"}}))
    shapes = kept_shapes(GRAPH, {})
    assert plan.layers[1].density == 0.5
    assert sum(kept(plan.layers, shapes).values()) == round(0.3 * (216 + 128 + 64))
    with pytest.raises(PlanError, match="cannot be reached"):
        make_plan(GRAPH, PlanSettings(density=0.3, density_by_layer="erk", granularity="unit"))


def test_planes_where_units_have_enough_inputs(tmp_path):
    graph = replace(GRAPH, layers=(replace(GRAPH.layers[0], shape=(8, 8, 3, 3)), *GRAPH.layers[1:]))  # a has 72 inputs, b 8, c 16
    asked = PlanSettings(encoding="planes", granularity="element", density=0.2)
    plan = make_plan(graph, asked)
    assert plan.layers == (LayerPlan("a", "planes", 1.0, "unit", 4), codes("b", 0.2), codes("c", 0.2))
    assert switched_layers(plan, asked) == ["b, c: codes instead of planes, whose gains do not pay below 64 inputs per unit"]
    assert switched_layers(plan, PlanSettings(layer_overrides={"a": {"encoding": "planes"}})) == []
    with pytest.raises(PlanError, match=r"`density` of layer `a` must be 1, which encoding planes fixes, got 0\.5"):
        make_plan(graph, PlanSettings(encoding="planes", layer_overrides={"a": {"density": 0.5}}))
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml", graph=graph) == plan
    narrow = replace(plan, layers=(plan.layers[0], replace(plan.layers[1], encoding="planes", density=1.0), plan.layers[2]))
    with pytest.raises(PlanError, match=r"`layers\.b\.encoding` cannot be planes: its units have 8 inputs, planes need 64"):
        check_plan(narrow, graph)
