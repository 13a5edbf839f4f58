"""The plan file: round trip, edits, and every way to break it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tsn_toolkit.contracts import GroupPlan
from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan import PlanSettings, load_plan, make_plan, save_plan

sys.path.insert(0, str(Path(__file__).parent))
from plan_graph import hand_graph  # noqa: E402

GRAPH = hand_graph()


@pytest.fixture
def saved(tmp_path):
    """A plan and its file."""
    plan = make_plan(GRAPH, PlanSettings(units_keep=0.5, density=0.00001))
    save_plan(plan, tmp_path / "plan.yaml")
    return plan, tmp_path / "plan.yaml"


def edit(path, old, new):
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_round_trip_and_same_bytes(saved, tmp_path):
    plan, path = saved
    assert load_plan(path, graph=GRAPH) == plan
    save_plan(load_plan(path), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == path.read_bytes()
    assert "a: {keep: 4, size: 8}" in path.read_text()


def test_child_layers_are_written_where_there_are_some(saved, tmp_path):
    plan = make_plan(GRAPH, PlanSettings(density=0.2, child_overrides={"b": {"density": 0.1}}))
    save_plan(plan, tmp_path / "child.yaml")
    assert load_plan(tmp_path / "child.yaml", graph=GRAPH) == plan
    assert "child_layers:" not in saved[1].read_text().split("schema:")[1]
    edit(tmp_path / "child.yaml", "  b: {encoding: codes, density: 0.1", "  bb: {encoding: codes, density: 0.1")
    with pytest.raises(PlanError, match=r"`child_layers\.bb` is no layer"):
        load_plan(tmp_path / "child.yaml", graph=GRAPH)
    edit(tmp_path / "child.yaml", "  bb: {encoding: codes, density: 0.1", "  b: {encoding: codes, density: 1.1")
    with pytest.raises(PlanError, match=r"`density` of `child_layers\.b` must be a fraction"):
        load_plan(tmp_path / "child.yaml")


def test_edits_count(saved):
    _, path = saved
    edit(path, "a: {keep: 4, size: 8}", "a: {keep: 3, size: 8}")
    edit(path, "b: {encoding: codes, density: 1.0e-05", "b: {encoding: shared, density: 1")
    plan = load_plan(path, graph=GRAPH)
    assert plan.groups[0] == GroupPlan("a", 3, 8)
    assert (plan.layers[1].encoding, plan.layers[1].density, type(plan.layers[1].density)) == ("shared", 1.0, float)
    edit(path, "  a: {encoding: codes, density: 1.0e-05, granularity: element", "  a: {encoding: codes, density: 0.5, granularity: 2:4")
    assert load_plan(path, graph=GRAPH).layers[0].granularity == "2:4"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keep: 4", "keep: 9", r"`keep` of `groups\.a` must be a whole number in 1\.\.8, got 9"),
        ("keep: 4", "keep: yes", "got True"),
        ("keep: 4", "kep: 4", r"`kep` of `groups\.a` is unknown \(did you mean 'keep'\?\)"),
        ("size: 8", "size: 0", r"`size` of `groups\.a` .*got 0"),
        ("max_code: 127", "max_code: 128", r"`max_code` must be a whole number in 1\.\.127, got 128"),
        ("schema: 1", "schema: 2", "`schema` must be 1, got 2"),
        ("fingerprint: ab", "fingerprint: zz", "`fingerprint` must be 64 hexadecimal digits, got 'zz"),
        ("bit_width: 4", "bit_width: 4.5", r"`bit_width` of `layers\.a` .*got 4\.5"),
        ("density: 1.0e-05", "density: .nan", "`density` .*got nan"),
        ("encoding: codes", "encoding: [1]", r"`encoding` .*got \[1\]"),
        ("trunk_bit_width: 8\n", "", "`trunk_bit_width` of the plan is missing"),
        (
            "a: {encoding: codes, density: 1.0e-05, granularity: element",
            "a: {encoding: codes, density: 0.3, granularity: '2:4'",
            r"`density` of `layers\.a` must be 0\.5, which granularity 2:4 fixes, got 0\.3",
        ),
        ("density_by_layer: uniform", "density_by_layer: even", "`density_by_layer` must be one of uniform, erk, learned, got 'even'"),
        ("density_by_layer: uniform\n", "", "`density_by_layer` of the plan is missing"),
        ("\nlayers:", "\nlayers: 3\nlayer:", "`layers` must be a mapping.*int"),
        ("max_code: 127", "max_code: 127\nmax_code: 12", "`max_code` is given twice"),
        ("max_code: 127", "max_code: [", "not valid YAML"),
        ("max_code: 127", "max_code: !!python/object/apply:os.system ['x']", "not valid YAML"),
    ],
)
def test_broken_files(saved, old, new, message):
    _, path = saved
    edit(path, old, new)
    with pytest.raises(PlanError, match=message) as caught:
        load_plan(path)
    assert "plan.yaml" in str(caught.value)


def test_all_problems_at_once(saved):
    _, path = saved
    edit(path, "max_code: 127", "max_code: 0")
    edit(path, "keep: 8", "keep: 99")
    with pytest.raises(PlanError, match=r"got 0(.|\n)*got 99"):
        load_plan(path)


def test_not_a_mapping_and_missing(tmp_path):
    (tmp_path / "p.yaml").write_text("- 1\n")
    with pytest.raises(PlanError, match="must be a mapping.*got list"):
        load_plan(tmp_path / "p.yaml")
    with pytest.raises(PlanError, match="none.yaml.*cannot be read"):
        load_plan(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path / "b.yaml")


def test_a_plan_of_another_model(saved):
    _, path = saved
    with pytest.raises(PlanError, match="fingerprint is abababababab, the model's cdcdcdcdcdcd"):
        load_plan(path, graph=replace(GRAPH, fingerprint="cd" * 32))
    edit(path, "  a: {keep: 4, size: 8}", "  a: {keep: 4, size: 9}\n  d: {keep: 1, size: 2}\n  c: {keep: 1, size: 4}")
    with pytest.raises(PlanError, match=r"`groups\.a\.size` must be 8, got 9(.|\n)*`groups\.d` is no group(.|\n)*`groups\.c` is frozen, got keep 1"):
        load_plan(path, graph=GRAPH)
    edit(path, "\n  c: {encoding", "\n  k: {encoding")
    with pytest.raises(PlanError, match=r"layer `c` is missing(.|\n)*`layers\.k` is no layer"):
        load_plan(path, graph=GRAPH)
