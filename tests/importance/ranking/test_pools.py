"""Which groups and layers compete: of the ResNet-20, where the answer is known by its blocks, and of a made-up graph."""

import pytest
import torch
from torch import nn

from tsn_toolkit.errors import PlanError
from tsn_toolkit.graph import trace
from tsn_toolkit.importance.ranking import layer_pools, unit_pools
from tsn_toolkit.models.resnet_cifar import resnet


@pytest.fixture(scope="module")
def graph():
    return trace(resnet(20, 10), torch.zeros(1, 3, 32, 32))


def test_groups_at_the_same_place_of_repeated_blocks_compete(graph):
    alike = [pool for pool in unit_pools(graph, "isomorphic") if len(pool) > 1]
    assert alike == [(f"layer{stage}.1.conv1", f"layer{stage}.2.conv1") for stage in (1, 2, 3)]
    names = [name for pool in unit_pools(graph, "isomorphic") for name in pool]
    assert sorted(names) == sorted(group.name for group in graph.groups)


def test_layers_at_the_same_place_of_repeated_blocks_compete(graph):
    pools = layer_pools(graph, "isomorphic")
    assert ("layer2.1.conv1", "layer2.2.conv1") in pools
    assert ("layer2.0.conv2", "layer2.1.conv2", "layer2.2.conv2") in pools
    assert ("layer2.0.conv1",) in pools and ("linear",) in pools
    assert sum(map(len, pools)) == len(graph.layers)


def test_global_and_single_pools(graph):
    assert unit_pools(graph, "global") == (tuple(group.name for group in graph.groups),)
    assert unit_pools(graph, "layer") == tuple((group.name,) for group in graph.groups)
    assert layer_pools(graph, "global") == (tuple(layer.name for layer in graph.layers),)
    assert layer_pools(graph, "row") == layer_pools(graph, "layer") == tuple((layer.name,) for layer in graph.layers)


def test_frozen_groups_do_not_compete():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(torch.relu(self.b(torch.relu(self.a(x)).sort(1).values)))

    found = trace(Added(), torch.zeros(1, 4))
    frozen = {group.name for group in found.groups if group.frozen}
    assert frozen == {"a"}
    assert unit_pools(found, "global") == (("b",),)


def test_unknown_scopes_are_refused(graph):
    with pytest.raises(PlanError, match="global, layer, isomorphic, got 'row'"):
        unit_pools(graph, "row")
    with pytest.raises(PlanError, match="isomorphic, row, got 'globl'.*'global'"):
        layer_pools(graph, "globl")
