"""`plan.budget` of a recipe: defaults, frozen, and every way to contradict oneself."""

import re

import pytest
from pydantic import ValidationError

from tsn_toolkit.recipe.checks import find_conflicts
from tsn_toolkit.recipe.schema import ModelSection, PlanSection, TrunkSection


def findings(budget, **section):
    """Key and sentence of everything wrong."""
    return {".".join(map(str, key)): text for key, text in find_conflicts({"plan": PlanSection(budget=budget, **section)})}


def test_without_a_budget_nothing_changes():
    assert PlanSection().budget is None
    assert not list(find_conflicts({"plan": PlanSection()}))


def test_a_budget_that_says_enough():
    assert findings({"size_bytes": 9000}) == {}
    assert findings({"macs_kept": 0.5, "units": [0.75, 0.5], "granularities": ["2:4", "element"]}) == {}
    assert findings({"macs_kept": 0.5}, unit_overrides={"a": 0.5}) == {}


@pytest.mark.parametrize(
    ("budget", "section", "key", "message"),
    [
        ({}, {}, "plan.budget", "sets no limit. Give at least one of size_bytes"),
        ({"densities": [0.5]}, {}, "plan.budget", "sets no limit"),
        ({"macs_kept": 0.5}, {}, "plan.budget.macs_kept", "is 0.5, but only removed units lower it"),
        ({"latency_ms": 2.5}, {}, "plan.budget.latency_ms", "is 2.5, but only removed units lower it"),
        ({"size_bytes": 9, "bit_widths": [4, 4]}, {}, "plan.budget.bit_widths", r"names a value twice, got [4, 4]"),
        ({"size_bytes": 9, "granularities": ["4:2"]}, {}, "plan.budget.granularities.0", "keeps 4 of every 2"),
        ({"size_bytes": 9}, {"file": "p.yaml"}, "plan.file", "is 'p.yaml' beside `plan.budget`"),
        ({"size_bytes": 9}, {"target_macs": 0.5}, "plan.target_macs", "is 0.5 beside"),
        ({"size_bytes": 9}, {"units_keep": 0.5}, "plan.units_keep", "is 0.5 beside"),
        ({"size_bytes": 9}, {"density_by_layer": "learned"}, "plan.density_by_layer", "is 'learned' beside"),
        ({"size_bytes": 9}, {"adapt_bits": True}, "plan.adapt_bits", "is True beside"),
    ],
)
def test_contradictions(budget, section, key, message):
    found = findings(budget, **section)
    assert list(found) == [key] and message in found[key]


def test_a_budget_needs_a_trained_network():
    sections = {"plan": PlanSection(budget={"size_bytes": 9}), "model": ModelSection(factory="a.b:c")}
    assert [key for key, text in find_conflicts(sections) if "`model.checkpoint` is null" in text] == [("plan", "budget")]


@pytest.mark.parametrize("budget", [{"bytes": 3}, {"size_bytes": 0}, {"densities": []}, {"densities": [1.5]}, {"bit_widths": [9]}, {"examples": 1}])
def test_values_are_checked(budget):
    with pytest.raises(ValidationError, match=next(iter(budget))):
        PlanSection(budget={"size_bytes": 9, **budget})


def test_a_budget_is_frozen():
    budget = PlanSection(budget={"size_bytes": 9}).budget
    with pytest.raises(ValidationError, match="frozen"):
        budget.size_bytes = 10


@pytest.mark.parametrize(
    ("budget", "key", "message"),
    [
        ({"macs_kept": 0.5, "units": [0.5], "densities": [0.5]}, "plan.budget.densities", "but over a trained trunk.*`plan.density` counts"),
        ({"macs_kept": 0.5, "units": [0.5], "bit_widths": [4]}, "plan.budget.bit_widths", "`plan.bit_width` counts"),
        ({"max_accuracy_drop": 0.1}, "plan.budget.units", "is empty, but over a trained trunk only removed units are chosen"),
        ({"size_bytes": 9, "units": [0.5]}, "plan.budget.size_bytes", "is 9 and the only limit"),
        ({"size_bytes": 9, "macs_kept": 0.5, "units": [0.5]}, "", ""),
    ],
)
def test_over_a_trained_trunk_a_budget_chooses_units(budget, key, message):
    sections = {"plan": PlanSection(budget=budget), "model": ModelSection(factory="a.b:c", checkpoint="c.pth"), "trunk": TrunkSection()}
    found = {".".join(map(str, place)): text for place, text in find_conflicts(sections)}
    assert list(found) == ([key] if key else [])
    assert all(re.search(message, text) for text in found.values())
    seeded = {**sections, "trunk": TrunkSection(kind="seed")}
    assert not [place for place, text in find_conflicts(seeded) if "trained trunk" in text]
