"""Plans under a budget on a small trained network: the limits hold, the table is what a slow reference measures, the file keeps the record."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.contracts import GroupPlan
from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph import mask_units_
from tsn_toolkit.importance import magnitude
from tsn_toolkit.numerics.entropy import ideal_bits
from tsn_toolkit.plan import PlanSubject, load_plan, macs_after, plan_under_budget, save_plan
from tsn_toolkit.plan.candidate import Candidate, Examiner, LayerOption, mask_bits, masks_of
from tsn_toolkit.plan.cost_model import CostModel
from tsn_toolkit.plan.file import load_measured
from tsn_toolkit.plan.sensitivity import constant_bytes, measure_sensitivity
from tsn_toolkit.plan.solve import solve
from tsn_toolkit.recipe.schema import PlanSection

BUDGET = {"densities": [1.0, 0.5, 0.25], "bit_widths": [8, 3], "examples": 96}


def loss(logits, labels):
    return functional.cross_entropy(logits, labels, reduction="none")


def plan(subject, budget, section=None, **options):
    """The plan under a budget, with few options."""
    model, graph, examples = subject
    settings = PlanSection(budget={**BUDGET, **budget}, **(section or {}))
    return plan_under_budget(PlanSubject(settings, graph, model, examples, loss, trunk_bit_width=8, max_code=127, **options))


def examiner_of(subject):
    model, graph, examples = subject
    return Examiner(model, graph, examples, loss, max_code=127)


def logits_by_hand(model, x):
    """Answers with the statistics of the batch in every norm."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        return model(x).double()


def answers_by_hand(model, x, y):
    """Losses with the statistics of the batch in every norm."""
    return loss(logits_by_hand(model, x), y).numpy()


def divergence_by_hand(before, after, x):
    """Kullback-Leibler divergence of every example."""
    before, after = (logits_by_hand(model, x).log_softmax(1) for model in (before, after))
    return functional.kl_div(after, before, reduction="none", log_target=True).sum(1).numpy()


def test_an_option_is_measured_as_a_slow_reference_does(subject):
    """Half of the weights, nearest of 256 integers: eight bits need no clustering."""
    model, graph, (x, y) = subject
    table = measure_sensitivity(examiner_of(subject), {"conv3": [LayerOption(0.5, "element", 8)]}, {}, max_passes=2)
    entry = table.layers["conv3"][0]
    pruned = copy.deepcopy(model)
    weight = pruned.conv3.weight.detach()
    keep = weight.abs() >= weight.abs().flatten().sort().values[weight.numel() // 2]
    scale = weight.abs().flatten(1).amax(1).double().view(-1, 1, 1, 1) / 127
    q = torch.where(keep, (weight / scale).round(), 0)
    pruned.conv3.weight.data = (q * scale).float()
    expected = answers_by_hand(pruned, x, y) - answers_by_hand(model, x, y)
    assert entry.change.loss.mean == pytest.approx(expected.mean(), rel=1e-4, abs=1e-7)
    assert entry.change.loss.standard_error == pytest.approx(expected.std(ddof=1) / len(y) ** 0.5, rel=1e-4)
    moved = divergence_by_hand(model, pruned, x)
    assert entry.change.divergence.mean == pytest.approx(moved.mean(), rel=1e-3) and moved.mean() > 1e-4
    assert entry.change.divergence.standard_error == pytest.approx(moved.std(ddof=1) / len(y) ** 0.5, rel=1e-3)
    slots = weight.numel()
    assert entry.slot_bytes == pytest.approx((slots + ideal_bits(np.unique(q[keep].numpy(), return_counts=True)[1])) / 8)
    assert entry.fixed_bytes == 256 + 2 * 16 + 1
    assert (table.passes, table.loss) == (2, pytest.approx(answers_by_hand(model, x, y).mean(), rel=1e-5))


def test_labels_do_not_decide_what_an_option_is_worth(subject):
    """Permuted labels change every loss and no divergence: a compressed network cannot look better than the whole one by chance."""
    model, graph, (x, y) = subject
    options = {"conv3": [LayerOption(1.0, "element", width) for width in (8, 3, 1)]}
    tables = [measure_sensitivity(examiner_of((model, graph, (x, labels))), options, {}, max_passes=4) for labels in (y, y.roll(1))]
    one, other = ([entry.change for entry in table.layers["conv3"]] for table in tables)
    assert [change.divergence for change in one] == [change.divergence for change in other]
    assert all(a.loss != b.loss for a, b in zip(one, other, strict=True))
    assert 0 < one[0].divergence.mean < one[1].divergence.mean < one[2].divergence.mean
    assert min(change.loss.mean for change in (*one, *other)) < 0


def test_fewer_units_are_measured_as_the_masked_network(subject):
    model, graph, (x, y) = subject
    name = graph.groups[0].name
    table = measure_sensitivity(examiner_of(subject), {}, {name: [8, 3]}, max_passes=2)
    norms = model.conv1.weight.detach().flatten(1).norm(dim=1).numpy()
    mask = np.zeros(8, dtype=bool)
    mask[np.argsort(-norms)[:3]] = True
    masked = copy.deepcopy(model)
    mask_units_(masked, graph, {name: mask})
    expected = (answers_by_hand(masked, x, y) - answers_by_hand(model, x, y)).mean()
    full, three = table.groups[name]
    assert (full.keep, three.keep, full.change.loss.mean, full.macs) == (8, 3, 0.0, graph.macs)
    assert three.change.loss.mean == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-4
    assert three.macs == macs_after(graph, {name: 3})


def test_measuring_leaves_the_model_and_its_copy_bit_by_bit_as_they_were(subject):
    model, graph, _ = subject
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examiner = examiner_of(subject)
    first = examiner.answers()
    both = Candidate({"conv2": LayerOption(0.1, "element", 2)}, {graph.groups[0].name: 2})
    for candidate in (both, Candidate({"conv3": LayerOption(1, "unit", 1)})):
        assert not np.array_equal(examiner.answers(candidate).losses, first.losses)
    with pytest.raises(RuntimeError, match="stop"), examiner.applied(Candidate({"conv2": LayerOption(0.1, "element", 2)})):
        raise RuntimeError("stop")
    assert np.array_equal(examiner.answers().losses, first.losses)
    for held in (model, examiner.model):
        assert all(torch.equal(value, before[name]) for name, value in held.state_dict().items())
        assert not held.training


def test_masks_lie_inside_the_kept_units(subject):
    """The density counts the slots that are left, and dead units stay dead."""
    model, graph, _ = subject
    name = graph.groups[0].name
    examiner = examiner_of(subject)
    alive = masks_of(graph, magnitude.score(model, graph), {name: 3})[name]
    with examiner.applied(Candidate({"conv2": LayerOption(0.5, "element", 8)}, {name: 3})) as applied:
        weight = applied.conv2.weight.detach().clone()
    assert int((weight != 0).sum()) == round(0.5 * 16 * 3 * 9)
    assert not weight[:, ~alive].any()


@pytest.mark.parametrize(
    ("option", "kept", "bits"),
    [
        (LayerOption(0.25, "element", 4), 18, 72 * 0.8112781244591328),
        (LayerOption(0.5, "block(3)", 4), 36, 24.0),
        (LayerOption(0.5, "2:4", 4), 36, 18 * np.log2(6)),
        (LayerOption(1.0, "unit", 4), 72, 0.0),
    ],
)
def test_bits_of_a_mask(option, kept, bits):
    assert mask_bits((8, 9), option, kept) == pytest.approx(bits)


def test_a_task_pays_for_the_head_of_its_own_classes(subject):
    """Three classes of 64 features in the model's head: a task of two saves 64 bytes of codes, a scale and a bias of 2 bytes."""
    model, graph, _ = subject
    assert graph.layer("head").shape == (3, 64)
    assert constant_bytes(model, graph, 8) == constant_bytes(model, graph, 8, 3) == constant_bytes(model, graph, 8, 2) + 64 + 2 + 2
    assert constant_bytes(model, graph, 4, 2) == constant_bytes(model, graph, 8, 2) - 64


@pytest.fixture(scope="module")
def model_of_costs(subject):
    """Costs and divergences of four layers and three groups, three options each, latencies included."""
    _, graph, _ = subject
    options = [LayerOption(1.0, "element", 8), LayerOption(0.5, "element", 3), LayerOption(0.2, "element", 2)]
    layers = dict.fromkeys(("conv2", "conv3"), options)
    units = {group.name: [group.size, group.size // 2, 2] for group in graph.groups if not group.frozen}
    table = measure_sensitivity(examiner_of(subject), layers, units, max_passes=50, latency_ms=lambda keep: macs_after(graph, keep) ** 0.5)
    return CostModel(graph, table)


def all_choices(model):
    return [np.array(choice) for choice in product(*(range(len(values)) for values in model.values))]


def test_costs_of_choices(subject, model_of_costs):
    """Multiply-accumulates as counted from the graph; bytes as those of the slots that are left; single changes add up to the total."""
    _, graph, _ = subject
    for choice in all_choices(model_of_costs)[::5]:
        total = model_of_costs.total(choice)
        candidate = model_of_costs.candidate(choice)
        assert total[1] == pytest.approx(macs_after(graph, candidate.units))
        for item, costs in enumerate(model_of_costs.differences(choice)):
            for option, cost in enumerate(costs):
                changed = choice.copy()
                changed[item] = option
                assert model_of_costs.total(changed) - total == pytest.approx(cost, abs=1e-6)
    dense = model_of_costs.largest()
    halved = dense.copy()
    halved[0] = 1  # conv1 loses half of its units: conv2 half of its slots
    lost = model_of_costs.total(dense)[0] - model_of_costs.total(halved)[0]
    assert lost == pytest.approx(model_of_costs.table.layers["conv2"][0].slot_bytes / 2)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("resources", [("size_bytes",), ("macs",), ("size_bytes", "macs"), ("size_bytes", "macs", "latency_ms")])
def test_near_the_best_of_all_choices_and_never_below_the_bound(model_of_costs, resources, share):
    dense = dict(zip(("size_bytes", "macs", "latency_ms"), model_of_costs.total(model_of_costs.largest()), strict=True))
    limits = {name: (share**0.5 if name == "latency_ms" else share) * dense[name] for name in resources}
    index = [("size_bytes", "macs", "latency_ms").index(name) for name in resources]
    allowed = np.array(list(limits.values()))
    least = [model_of_costs.divergence(c) for c in all_choices(model_of_costs) if (model_of_costs.total(c)[index] <= allowed * (1 + 1e-9)).all()]
    if not least:
        with pytest.raises(PlanError, match="cannot be reached"):
            solve(model_of_costs, limits)
        return
    found = solve(model_of_costs, limits)
    assert (found.costs[index] <= allowed * (1 + 1e-6)).all()
    assert found.bound <= min(least) + 1e-9
    assert min(least) - 1e-9 <= found.divergence <= min(least) * 1.25 + 1e-3


def test_the_binding_limit_is_named(model_of_costs):
    dense = model_of_costs.total(model_of_costs.largest())
    assert solve(model_of_costs, {"size_bytes": 0.5 * dense[0], "macs": 2 * dense[1]}).binding == ("size_bytes",)
    assert solve(model_of_costs, {"size_bytes": 2 * dense[0], "macs": 0.5 * dense[1]}).binding == ("macs",)
    assert solve(model_of_costs, {"size_bytes": 2 * dense[0]}).binding == ()


def test_a_plan_under_bytes_and_macs(subject):
    model, graph, _ = subject
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = plan(subject, {"size_bytes": 2500, "macs_kept": 0.6, "units": [0.75, 0.5]})
    assert made.measured["predicted"]["size_bytes"] <= 2500
    counted = macs_after(graph, {group.name: group.keep for group in made.plan.groups})
    assert counted == made.measured["predicted"]["macs"] <= 0.6 * graph.macs
    assert made.plan.groups and all(isinstance(group, GroupPlan) for group in made.plan.groups)
    assert made.measured["binding"] and set(made.measured["binding"]) <= {"size_bytes", "macs"}
    assert made.measured["predicted"]["lower_bound"] <= made.measured["predicted"]["divergence"]
    options = 4 * 6 + sum(len(lines) - 1 for lines in made.measured["groups"].values())
    assert made.measured["passes"] == 1 + options + 1
    assert plan(subject, {"size_bytes": 2500, "macs_kept": 0.6, "units": [0.75, 0.5]}) == made
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_whole_candidate_is_measured_again(subject):
    made = plan(subject, {"size_bytes": 1800})
    layers = {layer.name: LayerOption(layer.density, layer.granularity, layer.bit_width) for layer in made.plan.layers}
    model, graph, (x, y) = subject
    places = np.linspace(0, len(y) - 1, 96).round().astype(int)
    examiner = Examiner(model, graph, (x[places], y[places]), loss, max_code=127)
    after, dense = examiner.answers(Candidate(layers)), examiner.answers()
    assert made.measured["whole"]["loss_increase"] == pytest.approx((after.losses - dense.losses).mean(), abs=1e-6)
    assert made.measured["whole"]["accuracy_drop"] == pytest.approx((dense.correct - after.correct).mean(), abs=1e-6)


def test_fewest_bytes_at_which_the_loss_holds(subject):
    more = {"densities": [1.0, 0.5, 0.2, 0.05], "bit_widths": [8, 3, 1]}
    tight, wide = (plan(subject, {"max_loss_increase": limit, **more}) for limit in (0.05, 0.5))
    for made, limit in ((tight, 0.05), (wide, 0.5)):
        whole = made.measured["whole"]
        assert whole["loss_increase"] + whole["standard_error"] <= limit
        assert made.measured["binding"] == ["max_loss_increase"]
    assert wide.measured["predicted"]["size_bytes"] < 0.9 * tight.measured["predicted"]["size_bytes"]
    drop = plan(subject, {"max_accuracy_drop": 0.1}).measured["whole"]
    assert drop["accuracy_drop"] + drop["accuracy_standard_error"] <= 0.1


def test_latency_is_asked_once_per_number_of_units_and_frozen(subject, tmp_path):
    _, graph, _ = subject
    asked = []

    def latency_ms(keep):
        asked.append(tuple(keep.items()))
        return 1 + 4 * macs_after(graph, keep) / graph.macs

    made = plan(subject, {"latency_ms": 3.5, "units": [0.5]}, latency_ms=latency_ms)
    assert made.measured["predicted"]["latency_ms"] <= 3.5 and made.measured["binding"] == ["latency_ms"]
    assert len({keep for keep in asked if keep}) == len([keep for keep in asked if keep]) == len(made.measured["groups"])
    save_plan(made.plan, tmp_path / "plan.yaml", measured=made.measured)
    frozen = load_measured(tmp_path / "plan.yaml")["groups"][graph.groups[0].name][1]["latency_ms"]
    assert frozen == pytest.approx(latency_ms({graph.groups[0].name: 4}))


def test_the_file_keeps_the_record_and_loading_ignores_it(subject, tmp_path):
    _, graph, _ = subject
    made = plan(subject, {"size_bytes": 1800})
    path = tmp_path / "plan.yaml"
    save_plan(made.plan, path, measured=made.measured)
    text = path.read_text()
    assert "binding: [size_bytes]" in text and "# measured: " in text and "- {density: 0.5, granularity: element, bit_width: 3, bytes: " in text
    assert load_plan(path, graph=graph) == made.plan and load_measured(path) == made.measured
    path.write_text(text.replace("binding:", "bindings:"))
    with pytest.raises(PlanError, match="`measured` holds unknown keys, got bindings"):
        load_plan(path)
    path.write_text(text[: text.index("\nmeasured:")] + "\nmeasured: 3\n")
    with pytest.raises(PlanError, match="`measured` must be a mapping, got int"):
        load_plan(path)
    path.write_text(text[: text.index("\nmeasured:")] + "\n")
    assert load_plan(path) == made.plan and load_measured(path) is None


def test_overrides_narrow_the_options(subject):
    _, graph, _ = subject
    name = graph.groups[0].name
    section = {
        "layer_overrides": {"conv2": {"bit_width": 6}, "conv3": {"encoding": "shared"}, "conv4": {"granularity": "2:4"}},
        "unit_overrides": {name: 0.5},
    }
    made = plan(subject, {"size_bytes": 2000}, section)
    layers = {layer.name: layer for layer in made.plan.layers}
    assert layers["conv2"].bit_width == 6 and layers["conv3"].encoding == "shared"
    assert (layers["conv4"].granularity, layers["conv4"].density) == ("2:4", 0.5)
    assert made.plan.groups == (GroupPlan(name, 4, 8),)
    assert {line["bit_width"] for line in made.measured["layers"]["conv2"]} == {6} and "conv3" not in made.measured["layers"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"size_bytes": 100},
            r"`size_bytes` is 100, the least that can be reached \d+.*too low.*bytes of head, norms, biases and free parameters.*no group may lose",
        ),
        ({"macs_kept": 0.01, "units": [0.5]}, r"`macs` is .*the least that can be reached"),
        ({"max_loss_increase": 0.0, "densities": [0.2], "bit_widths": [1]}, "`max_loss_increase` is 0, the best candidate raises .*What holds it"),
        ({"max_passes": 24, "size_bytes": 9000}, "takes 25 forward passes over the examples, `max_passes` is 24"),
        ({"latency_ms": 2.0}, "`plan.budget.latency_ms` is 2, but nothing measures a latency"),
    ],
)
def test_refused(subject, budget, message):
    with pytest.raises(PlanError, match=message):
        plan(subject, budget)


def test_no_budget_and_a_loss_that_averages_are_refused(subject):
    model, graph, examples = subject
    with pytest.raises(PlanError, match="`plan.budget` is not given"):
        plan_under_budget(PlanSubject(PlanSection(), graph, model, examples, loss, trunk_bit_width=8, max_code=127))
    section = PlanSection(budget={**BUDGET, "size_bytes": 2000})
    with pytest.raises(PlanError, match=r"one finite number per example, got shape \(\) for 96 examples"):
        plan_under_budget(PlanSubject(section, graph, model, examples, functional.cross_entropy, trunk_bit_width=8, max_code=127))


def test_a_graph_of_another_model_cannot_be_budgeted(subject):
    """The plan carries the fingerprint of its graph, so that it fits no other model."""
    model, graph, _ = subject
    made = plan((model, replace(graph, fingerprint="cd" * 32), subject[2]), {"size_bytes": 2500})
    assert made.plan.fingerprint == "cd" * 32
