"""Which units stay: importance against plain loops, numbers by hand, and a model that may lose none."""

import dataclasses

import numpy as np
import pytest
import torch

from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.mlp import mlp
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.dynamic_units import choose_units, kept_count, unit_importance


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = small_cnn(width=4, classes=3)
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    model(torch.randn(5, 1, 8, 8)).square().sum().backward()
    return model, graph


@pytest.mark.parametrize("gradient_weight", [0.0, 0.5])
def test_importance_is_the_sum_over_the_weights_that_make_a_unit(net, gradient_weight):
    """The second and the third convolution are added, so that their channels are one group."""
    model, graph = net
    found = unit_importance(model, graph, gradient_weight)
    assert list(found) == ["conv1", "conv2", "conv4"]
    for group, producers in {"conv1": ["conv1"], "conv2": ["conv2", "conv3"], "conv4": ["conv4"]}.items():
        for unit, value in enumerate(found[group]):
            expected = 0.0
            for layer in map(model.get_submodule, producers):
                pairs = zip(layer.weight[unit].flatten().tolist(), layer.weight.grad[unit].flatten().tolist(), strict=True)
                expected += sum(abs(w) + gradient_weight * abs(g) for w, g in pairs)
            assert value == pytest.approx(expected, rel=1e-5)


def test_the_most_important_stay_and_gradients_count(net):
    model, graph = net
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.conv3, model.conv4):
            layer.weight.fill_(1.0)
            layer.weight.grad.zero_()
        model.conv1.weight[2] = -3.0
        model.conv1.weight[0] = 0.5
        model.conv1.weight.grad[0] = 9.0
        model.conv3.weight[[1, 3, 6]] = 2.0
    masks = choose_units(model, graph, sparsity=0.75, gradient_weight=0.5)
    assert masks["conv1"].tolist() == [True, False, True, False]
    assert np.flatnonzero(masks["conv2"]).tolist() == [0, 1, 3, 6], "of equal ones the lower index"
    assert np.flatnonzero(choose_units(model, graph, sparsity=0.75, gradient_weight=0.0)["conv1"]).tolist() == [1, 2]


def test_a_layer_between_two_groups_loses_the_share_asked_for():
    assert [kept_count(size, 0.75) for size in (1, 2, 3, 8, 100)] == [1, 1, 2, 4, 50]
    assert [kept_count(64, sparsity) for sparsity in (0.0, 0.36, 0.99)] == [64, 51, 6]
    assert kept_count(4, 0.999) == 1
    graph = trace(mlp((20, 16, 12), classes=3), torch.zeros(1, 20))
    masks = choose_units(mlp((20, 16, 12), classes=3), graph, sparsity=0.75, gradient_weight=0.5)
    assert sorted(int(mask.sum()) for mask in masks.values()) == [6, 8]


def test_frozen_groups_stay_whole_and_a_model_of_frozen_groups_is_refused(net):
    model, graph = net
    frozen = [dataclasses.replace(group, frozen="seen elsewhere") for group in graph.groups]
    some = dataclasses.replace(graph, groups=(*frozen[:2], graph.groups[2]))
    assert list(choose_units(model, some, sparsity=0.5, gradient_weight=0.5)) == ["conv4"]
    with pytest.raises(PlanError, match="`conv1`: seen elsewhere; .*granularity: element"):
        choose_units(model, dataclasses.replace(graph, groups=tuple(frozen)), sparsity=0.5, gradient_weight=0.5)
    with pytest.raises(PlanError, match="it has no groups of units"):
        choose_units(model, dataclasses.replace(graph, groups=()), sparsity=0.5, gradient_weight=0.5)
