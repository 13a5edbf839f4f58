"""Importance criteria: hand-computed scores, planted truth, and what holds for all of them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import DataError, GraphError, RecipeError
from tsn_toolkit.graph import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.registry import load, names

PACKAGE = "tsn_toolkit.importance"
ON_DATA = ["fisher", "obs", "relevance", "sdp", "taylor", "wanda"]
CACHE = {}


def setting(seed=0):
    """A small trained-looking model, its graph, and two batches."""
    if "graph" not in CACHE:
        CACHE["graph"] = trace(small_cnn(width=4, classes=3), torch.zeros(1, 1, 8, 8))
    torch.manual_seed(seed)
    model = small_cnn(width=4, classes=3).eval()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2, model.bn3, model.bn4):
            norm.weight.uniform_(0.5, 1.5), norm.bias.uniform_(-0.5, 0.5), norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    batches = [(torch.randn(6, 1, 8, 8), torch.randint(0, 3, (6,))) for _ in range(2)]
    return model, CACHE["graph"], batches


def test_registry_lists_the_criteria():
    assert {"bn_scale", "fisher", "magnitude", "obs", "random", "relevance", "sdp", "taylor", "wanda"} <= set(names(PACKAGE))
    with pytest.raises(RecipeError, match="taylr.*taylor"):
        load(PACKAGE, "taylr")


def snapshot(model):
    """Everything that a criterion could leave behind: values, gradients, modes, hooks."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {key: (value.grad, value.requires_grad) for key, value in model.named_parameters()},
        {key: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for key, module in model.named_modules()},
    )


def assert_unchanged(model, before):
    values, gradients, modules = snapshot(model)
    assert all(torch.equal(before[0][key], value) for key, value in values.items())
    assert (gradients, modules) == before[1:]


@pytest.mark.parametrize("name", names(PACKAGE))
def test_one_finite_score_per_unit_reproducible_and_nothing_changed(name):
    model, graph, batches = setting()
    model.train()
    model.conv2.weight.requires_grad_(False)
    before = snapshot(model)
    score = load(PACKAGE, name).score
    first, second = score(model, graph, batches, F.cross_entropy), score(model, graph, batches, F.cross_entropy)
    assert set(first) == {"conv1", "conv2", "conv4"}
    for group in graph.groups:
        assert first[group.name].shape == (group.size,) and first[group.name].dtype == np.float64
        assert np.isfinite(first[group.name]).all() and np.ptp(first[group.name]) > 0
        assert np.array_equal(first[group.name], second[group.name])
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", [name for name in names(PACKAGE) if name != "bn_scale"])
def test_one_finite_score_per_weight_reproducible_and_nothing_changed(name):
    model, graph, batches = setting()
    model.train()
    model.conv2.weight.requires_grad_(False)
    before = snapshot(model)
    weight_scores = load(PACKAGE, name).weight_scores
    first = weight_scores(model, graph, batches, F.cross_entropy)
    with torch.no_grad():
        second = weight_scores(model, graph, batches, F.cross_entropy)
    assert list(first) == ["conv1", "conv2", "conv3", "conv4", "head"]
    for layer, values in first.items():
        assert values.shape == tuple(model.get_submodule(layer).weight.shape) and values.dtype == np.float64
        assert np.isfinite(values).all() and (values >= 0).all() and np.ptp(values) > 0
        assert np.array_equal(values, second[layer])
    assert_unchanged(model, before)


def test_batch_norm_scale_has_no_form_for_weights():
    assert not hasattr(load(PACKAGE, "bn_scale"), "weight_scores")


@pytest.mark.parametrize("form", ["score", "weight_scores"])
@pytest.mark.parametrize("name", ON_DATA)
def test_no_batch_is_refused(name, form):
    model, graph, _ = setting()
    with pytest.raises(DataError, match=f"`{name}` scores on examples and got no batch"):
        getattr(load(PACKAGE, name), form)(model, graph, [], F.cross_entropy)


@pytest.mark.parametrize("form", ["score", "weight_scores"])
@pytest.mark.parametrize("name", ON_DATA)
def test_the_division_into_batches_matters_only_where_it_is_said(name, form):
    """All but `fisher` and `sdp`, which square gradients of batches, are means over examples."""
    model, graph, batches = setting()
    whole = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    one, other = (getattr(load(PACKAGE, name), form)(model, graph, data, F.cross_entropy) for data in (batches, whole))
    alike = all(np.allclose(one[key], other[key], rtol=1e-3, atol=1e-9) for key in one)
    assert alike == (name not in ("fisher", "sdp") and (name, form) != ("relevance", "weight_scores"))


def test_magnitude_of_weights_by_hand():
    model, graph, _ = setting()
    assert load(PACKAGE, "magnitude").weight_scores(model, graph)["head"][2, 5] == abs(model.head.weight[2, 5].item())


def test_taylor_of_a_weight_is_the_first_order_change_of_the_mean_loss():
    """Reference: central differences in float64 of the mean loss over all examples of both batches."""
    model, graph, batches = setting()
    model = model.double()
    batches = [(x.double(), y) for x, y in (batches[0], (batches[1][0][:2], batches[1][1][:2]))]
    found = load(PACKAGE, "taylor").weight_scores(model, graph, batches, F.cross_entropy)
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def loss(layer, index, factor):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled.get_submodule(layer).weight[index] *= factor
            return float(F.cross_entropy(scaled(x), y))

    for layer, index in (("conv1", (2, 0, 1, 1)), ("conv3", (5, 3, 0, 2)), ("head", (1, 7))):
        derivative = (loss(layer, index, 1 + 1e-4) - loss(layer, index, 1 - 1e-4)) / 2e-4
        assert found[layer][index] == pytest.approx(abs(derivative), rel=1e-4)


def test_fisher_of_units_is_the_sum_of_that_of_their_weights():
    model, graph, batches = setting()
    fisher = load(PACKAGE, "fisher")
    weights, units = fisher.weight_scores(model, graph, batches, F.cross_entropy), fisher.score(model, graph, batches, F.cross_entropy)
    assert units["conv2"] == pytest.approx(weights["conv2"].sum((1, 2, 3)) + weights["conv3"].sum((1, 2, 3)))


@pytest.mark.parametrize("name", ["bn_scale", "fisher", "magnitude", "taylor"])
def test_planted_dead_units_score_zero(name):
    model, graph, batches = setting()
    with torch.no_grad():
        for conv, norm in ((model.conv2, model.bn2), (model.conv3, model.bn3)):
            conv.weight[3] = 0
            norm.weight[3], norm.bias[3] = 0, 0
    found = load(PACKAGE, name).score(model, graph, batches, F.cross_entropy)["conv2"]
    assert found[3] == 0 and (np.delete(found, 3) > 0).sum() >= 6


def test_units_of_depthwise_and_grouped_convolutions():
    """A unit that dies in the middle of a chain of coupled convolutions is dead for whatever looks at gradients or at what it sends."""
    torch.manual_seed(0)
    depthwise = (nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU())
    grouped = (nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU())
    stem = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    model = nn.Sequential(*stem, *depthwise, nn.Conv2d(6, 8, 1), *grouped, nn.Flatten(), nn.Linear(32, 3)).eval()
    with torch.no_grad():
        for norm in (model[1], model[4], model[8]):
            norm.bias.fill_(0.5)  # so that every live unit is active somewhere
        for norm, units in ((model[4], [2]), (model[8], [1, 5])):  # the second channels of both channel groups are one unit
            norm.weight[units], norm.bias[units] = 0, 0
    graph, batches = trace(model, torch.zeros(1, 2, 8, 8)), [(torch.randn(16, 2, 8, 8), torch.randint(0, 3, (16,)))]
    assert [(group.name, group.size) for group in graph.groups] == [("0", 6), ("6", 4), ("7", 4)]
    for name in names(PACKAGE):
        if name == "bn_scale":
            continue
        found = load(PACKAGE, name).score(model, graph, batches, F.cross_entropy)
        dead = {"0": [2], "7": [1]} if name in ("taylor", "fisher", "sdp", "wanda", "relevance") else {"0": [], "7": []}
        for group, units in dead.items():
            assert np.flatnonzero(found[group] == 0).tolist() == units, name


def test_magnitude_by_hand():
    model, graph, _ = setting()
    found = load(PACKAGE, "magnitude").score(model, graph)
    expected = (model.conv2.weight[5].double() ** 2).sum() + (model.conv3.weight[5].double() ** 2).sum()
    assert found["conv2"][5] == pytest.approx(float(expected.detach()) ** 0.5)


def test_bn_scale_by_hand_and_without_norm():
    model, graph, _ = setting()
    found = load(PACKAGE, "bn_scale").score(model, graph)
    assert found["conv2"] == pytest.approx((model.bn2.weight.abs() + model.bn3.weight.abs()).detach().double().numpy())
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(GraphError, match="`0` has no batch norm"):
        load(PACKAGE, "bn_scale").score(plain, trace(plain, torch.zeros(1, 4)))


def test_taylor_is_the_squared_derivative_of_a_gate_per_example():
    """Reference: central differences in float64 of one example's loss when all producers' normed outputs of a unit are scaled."""
    model, graph, batches = setting()
    model = model.double()
    batches = [(x.double(), y) for x, y in batches]
    found = load(PACKAGE, "taylor").score(model, graph, batches, F.cross_entropy)
    step, unit = 1e-4, 2
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])

    def losses(gate, norms):
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            for norm in norms:
                scaled.get_submodule(norm).weight[unit] *= gate
                scaled.get_submodule(norm).bias[unit] *= gate
            return F.cross_entropy(scaled(x), y, reduction="none")

    for group, norms in (("conv1", ["bn1"]), ("conv2", ["bn2", "bn3"]), ("conv4", ["bn4"])):
        derivative = (losses(1 + step, norms) - losses(1 - step, norms)) / (2 * step)
        assert found[group][unit] == pytest.approx(float((derivative**2).mean()), rel=1e-4)


def test_taylor_on_linear_layers_with_relu_in_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).double()
    x, y = torch.randn(3, 4).double(), torch.tensor([0, 1, 1])
    found = load(PACKAGE, "taylor").score(model, trace(model.float(), torch.zeros(1, 4)), [(x.float(), y)], F.cross_entropy)["0"]
    hidden = (x.float() @ model[0].weight.T + model[0].bias).detach().requires_grad_()
    loss = F.cross_entropy(model[2](torch.relu(hidden)), y, reduction="sum")
    gradient = torch.autograd.grad(loss, hidden)[0]
    assert found == pytest.approx(((hidden * gradient) ** 2).mean(0).detach().numpy(), rel=1e-5)


def test_fisher_by_hand():
    model, graph, batches = setting()
    found = load(PACKAGE, "fisher").score(model, graph, batches, F.cross_entropy)["conv4"]
    expected = torch.zeros(8, dtype=torch.float64)
    for x, y in batches:
        gradient = torch.autograd.grad(F.cross_entropy(model(x), y), model.conv4.weight)[0].double()
        expected += 0.5 * (model.conv4.weight.detach().double() ** 2 * len(x) * gradient**2 / 2).sum((1, 2, 3))
    assert found == pytest.approx(expected.numpy(), rel=1e-6)


def test_random_depends_on_seed_and_group_only():
    model, graph, _ = setting()
    score = load(PACKAGE, "random").score
    a, b = score(model, graph, seed=1), score(model, graph, seed=2)
    assert not np.array_equal(a["conv1"], b["conv1"]) and not np.array_equal(a["conv2"], a["conv4"])
    weights = load(PACKAGE, "random").weight_scores
    assert not np.array_equal(weights(model, graph, seed=1)["conv1"], weights(model, graph, seed=2)["conv1"])
