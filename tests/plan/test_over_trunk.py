"""Plans over a trained trunk: units are measured as a task starts, own layers follow from what was removed, limits hold."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.mended import mended
from tsn_toolkit.parts.reconstruction import reconstruct_
from tsn_toolkit.plan import PlanSubject, macs_after
from tsn_toolkit.plan.candidate import LayerOption, mask_bits
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.file import plan_from_dict, plan_to_dict
from tsn_toolkit.plan.over_trunk import MendedExaminer, plan_over_trunk
from tsn_toolkit.plan.own_layers import free_layers, own_layers, reading_groups
from tsn_toolkit.plan.sensitivity import measure_sensitivity
from tsn_toolkit.plan.solve import solve
from tsn_toolkit.recipe.schema import PlanSection

UNITS = {"units": [0.75, 0.5, 0.25], "examples": 96}
STORED = {"density": 1.0, "bit_width": 6}


def loss(logits, labels):
    return functional.cross_entropy(logits, labels, reduction="none")


def plan(subject, budget, **section):
    model, graph, examples = subject
    settings = PlanSection(budget={**UNITS, **budget}, **{**STORED, **section})
    mend = partial(mended, model, graph, examples[0][:32])
    return plan_over_trunk(PlanSubject(settings, graph, model, examples, loss, trunk_bit_width=8, max_code=127), mend)


def examiner_of(subject, section):
    model, graph, examples = subject
    mend = partial(mended, model, graph, examples[0][:32], free=free_layers(section, model, graph))
    return MendedExaminer(model, graph, examples, loss, mend=mend, max_code=127)


@pytest.fixture(scope="module")
def costs(subject):
    """Costs and divergences of all numbers of units."""
    section = PlanSection(**STORED)
    examiner = examiner_of(subject, section)
    units = {group.name: [group.size, group.size // 2, 2] for group in subject[1].groups if not group.frozen}
    return CostModel(subject[1], measure_sensitivity(examiner, {}, units, max_passes=20), own_layers(section, examiner))


def test_layers_that_read_units(subject):
    """conv2 and conv3 add up, so conv3 and conv4 read one group."""
    model, graph, _ = subject
    found = reading_groups(model, graph)
    assert {name: len(groups) for name, groups in found.items()} == {"conv2": 1, "conv3": 1, "conv4": 1, "head": 1}
    assert found["conv3"] == found["conv4"] != found["conv2"]
    overrides = {"conv1": {"encoding": "codes"}, "conv3": {"encoding": "shared"}}
    assert free_layers(PlanSection(layer_overrides=overrides), model, graph) == {"conv1", "conv2", "conv4"}


def test_fewer_units_are_measured_as_a_task_starts(subject, costs):
    """The slow way: shrink by the norms of the filters, fit the readers anew, compare the answers."""
    model, graph, (x, y) = subject
    name = graph.groups[0].name
    norms = model.conv1.weight.detach().flatten(1).norm(dim=1).numpy()
    mask = np.isin(np.arange(8), np.argsort(-norms)[:4])
    small = shrink(model, graph, {name: mask})
    reconstruct_(small.model, model, small.slots, x[:32], ridge=1e-3, free=frozenset({"conv2", "conv3", "conv4"}))
    with torch.no_grad():
        before, after = (network(x).double().log_softmax(1) for network in (model, small.model))
    expected = functional.kl_div(after, before, reduction="none", log_target=True).sum(1).mean()
    entry = costs.table.groups[name][1]
    assert entry.keep == 4 and entry.change.divergence.mean == pytest.approx(float(expected), rel=1e-5) and expected > 1e-4
    assert costs.table.groups[name][0].change.divergence.mean == 0.0


def test_only_layers_that_lose_inputs_cost_bytes(subject, costs):
    """Group 0 is read by conv2, group 1 by conv3 and conv4; a group of fewer units also takes rows from the layers that write it."""
    choice = costs.largest()
    assert costs.total(choice)[0] == costs.table.constant_bytes
    own = costs.own
    choice[0] = 1
    assert costs.total(choice)[0] - costs.table.constant_bytes == pytest.approx(own["conv2"].slot_bytes / 2 + own["conv2"].fixed_bytes)
    both = own["conv3"].slot_bytes / 4 + own["conv3"].fixed_bytes + own["conv4"].slot_bytes / 2 + own["conv4"].fixed_bytes
    choice[:2] = 0, 1
    assert costs.total(choice)[0] - costs.table.constant_bytes == pytest.approx(both)
    choice[:2] = 1, 1
    half_rows = own["conv2"].slot_bytes / 4 + own["conv2"].fixed_bytes
    assert costs.total(choice)[0] - costs.table.constant_bytes == pytest.approx(both + half_rows)


def test_bytes_of_an_own_layer(subject):
    examiner = examiner_of(subject, PlanSection(**STORED))
    option = LayerOption(0.5, "element", 3)
    bits = examiner.size_bits("conv2", option)
    slots = subject[0].conv2.weight.numel()
    assert mask_bits((16, 72), option, slots // 2) == slots < bits <= slots + 3 * slots / 2


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("extra_bytes", [500, 1500, None])
def test_near_the_best_of_all_choices_and_never_below_the_bound(costs, share, extra_bytes):
    limits = {"macs": share * costs.graph.macs}
    if extra_bytes is not None:
        limits["size_bytes"] = costs.table.constant_bytes + extra_bytes
    choices = [np.array(choice) for choice in product(*(range(len(values)) for values in costs.values))]
    index = [("size_bytes", "macs", "latency_ms").index(name) for name in limits]
    least = [costs.divergence(c) for c in choices if (costs.total(c)[index] <= np.array(list(limits.values())) * (1 + 1e-9)).all()]
    if not least:
        with pytest.raises(PlanError, match="cannot be reached"):
            solve(costs, limits)
        return
    found = solve(costs, limits)
    assert all(found.costs[i] <= limit * (1 + 1e-6) for i, limit in zip(index, limits.values(), strict=True))
    assert found.bound <= min(least) + 1e-9
    assert min(least) - 1e-9 <= found.divergence <= min(least) * 1.25 + 1e-3


def test_a_plan_keeps_its_limits_and_owns_what_it_breaks(subject):
    model, graph, _ = subject
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = plan(subject, {"macs_kept": 0.6})
    units = {group.name: group.keep for group in made.plan.groups}
    assert macs_after(graph, units) == made.measured["predicted"]["macs"] <= 0.6 * graph.macs
    readers = {name for name, groups in reading_groups(model, graph).items() if set(groups) & set(units)}
    assert {layer.name for layer in made.plan.layers if layer.encoding == "codes"} == readers - {"head"}
    assert {(layer.density, layer.bit_width) for layer in made.plan.layers if layer.encoding == "codes"} == {(1.0, 6)}
    assert made.measured["binding"] == ["macs"] and set(made.measured["own"]) == {"conv2", "conv3", "conv4"}
    assert plan(subject, {"macs_kept": 0.6}) == made
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "section",
    [
        {"density": 0.3, "granularity": "2:4"},
        {"density": 0.3, "layer_overrides": {"conv4": {"encoding": "planes"}}},
        {"density": 0.3, "layer_overrides": {"conv4": {"encoding": "codes", "granularity": "unit"}}},
    ],
)
def test_a_density_that_the_form_fixes_is_the_plans(subject, section):
    """Or a store would refuse the plan that it was given when the first task is learned."""
    made = plan(subject, {"macs_kept": 0.6}, **section).plan
    assert plan_from_dict(plan_to_dict(made)) == made


def test_bytes_decide_where_units_go(subject):
    """The group that fewer weights read is the one that a small file can afford."""
    wide = plan(subject, {"macs_kept": 0.75})
    limit = wide.measured["predicted"]["size_bytes"] - 1
    try:
        small = plan(subject, {"macs_kept": 0.75, "size_bytes": limit})
    except PlanError as error:
        assert "the least that can be reached" in str(error)
        return
    assert small.measured["predicted"]["size_bytes"] <= limit and small.measured["predicted"]["macs"] <= 0.75 * subject[1].macs
    assert small.plan.groups != wide.plan.groups


def test_fewest_multiply_accumulates_at_which_the_loss_holds(subject):
    tight, loose = (plan(subject, {"max_loss_increase": limit}) for limit in (0.05, 1.0))
    for made, limit in ((tight, 0.05), (loose, 1.0)):
        whole = made.measured["whole"]
        assert whole["loss_increase"] + whole["standard_error"] <= limit and made.measured["binding"] == ["max_loss_increase"]
    assert loose.measured["predicted"]["macs"] < tight.measured["predicted"]["macs"]
