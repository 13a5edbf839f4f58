"""A smaller network's operations are those that torch counts on it, and its slots lead back."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.models.depthwise_cifar import depthwise_cifar
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.dynamic_units import choose_units
from tsn_toolkit.parts.kept_units import without_units
from tsn_toolkit.parts.training_cost import TrainingCost


@pytest.mark.parametrize("logits", [4, 7])
def test_a_training_step_costs_what_torch_counts_on_the_smaller_network(logits):
    model = small_cnn(width=6, classes=4)
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    set_head(model, graph.head, logits)
    small, units = without_units(model, graph, choose_units(model, graph, sparsity=0.6, gradient_weight=0.5))
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(small.train()(torch.randn(3, 1, 8, 8)), torch.zeros(3, dtype=torch.int64)).backward()
    cost = TrainingCost(units.layers(graph.layers), head=graph.head, logits=logits)
    cost.add_step(3, {}, {})
    assert cost.flops == counter.get_total_flops()


def test_records_are_those_of_a_trace_of_the_smaller_network():
    """With depthwise convolutions, whose channels are units of the group that they read."""
    model = depthwise_cifar(width=4, classes=4)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    small, units = without_units(model, graph, choose_units(model, graph, sparsity=0.6, gradient_weight=0.5))
    traced = {layer.name: (layer.shape, layer.macs) for layer in trace(small, torch.zeros(1, 3, 32, 32)).layers}
    layers = units.layers(graph.layers)
    assert {layer.name: (layer.shape, layer.macs) for layer in layers} == traced
    assert sum(layer.macs for layer in layers) < 0.6 * graph.macs


def test_slots_and_sizes_lead_back_to_the_full_module():
    model = small_cnn(width=4, classes=3)
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = {"conv1": np.array([True, False, True, True])}
    small, units = without_units(model, graph, masks)
    assert units.slots_of("conv2") == 8 * 4 * 9 and units.sizes["conv1.weight"] == (4, 1, 3, 3)
    assert small.conv2.weight.shape == (8, 3, 3, 3) and isinstance(small.conv2, nn.Conv2d)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[name].flatten()[units.slots[name]]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
