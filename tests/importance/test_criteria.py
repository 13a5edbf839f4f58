"""Importance criteria: hand-computed scores, planted truth, and what holds for all of them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import GraphError, RecipeError
from tsn_toolkit.graph import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.registry import load, names

PACKAGE = "tsn_toolkit.importance"
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
    assert names(PACKAGE) == ("bn_scale", "fisher", "magnitude", "random", "taylor")
    with pytest.raises(RecipeError, match="taylr.*taylor"):
        load(PACKAGE, "taylr")


@pytest.mark.parametrize("name", names(PACKAGE))
def test_one_finite_score_per_unit_reproducible_and_nothing_changed(name):
    model, graph, batches = setting()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    score = load(PACKAGE, name).score
    first, second = score(model, graph, batches, F.cross_entropy), score(model, graph, batches, F.cross_entropy)
    assert set(first) == {"conv1", "conv2", "conv4"}
    for group in graph.groups:
        assert first[group.name].shape == (group.size,) and first[group.name].dtype == np.float64
        assert np.isfinite(first[group.name]).all() and np.ptp(first[group.name]) > 0
        assert np.array_equal(first[group.name], second[group.name])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training and all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["bn_scale", "fisher", "magnitude", "taylor"])
def test_planted_dead_units_score_zero(name):
    model, graph, batches = setting()
    with torch.no_grad():
        for conv, norm in ((model.conv2, model.bn2), (model.conv3, model.bn3)):
            conv.weight[3] = 0
            norm.weight[3], norm.bias[3] = 0, 0
    found = load(PACKAGE, name).score(model, graph, batches, F.cross_entropy)["conv2"]
    assert found[3] == 0 and (np.delete(found, 3) > 0).sum() >= 6


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
