"""Costs by the roofline model, by hand."""

import pytest
import torch
from torch import nn

from tsn_toolkit.errors import TargetError
from tsn_toolkit.graph import trace
from tsn_toolkit.graph.roofline import module_costs, operation_costs
from tsn_toolkit.target import Rates, load_target

RATES = Rates(threads=1, int8_gmacs_per_s=2.0, float_gmacs_per_s=1.0, memory_gb_per_s=1.0)
TARGET = load_target("cpu_onnxruntime").model_copy(update={"rates": RATES})


def graph_of(model, *shape):
    return trace(model.eval(), torch.zeros(1, *shape))


def test_a_layer_is_bound_by_what_takes_longer():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 10, bias=False))
    convolution, linear = operation_costs(graph_of(model, 4, 16, 16), TARGET)
    macs = 8 * 4 * 9 * 256
    assert (convolution.module, convolution.macs, convolution.bound) == ("0", macs, "compute")
    assert convolution.microseconds == pytest.approx(macs / 2e3) and convolution.moved_bytes == 4 * 256 + 8 * 256 + 8 * 4 * 9
    weights = 8 * 256 * 10
    assert (linear.bound, linear.moved_bytes) == ("memory", weights + 8 * 256 + 10) and linear.microseconds == pytest.approx(linear.moved_bytes / 1e3)
    assert list(module_costs((convolution, linear))) == ["0", "3"]


def test_a_layer_without_an_integer_kernel_pays_for_floats():
    floats = TARGET.model_copy(update={"operations": {"add": TARGET.operations["add"]}})
    graph = graph_of(nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.Flatten(), nn.Linear(8, 3)), 4, 3, 3)
    integer, simulated = operation_costs(graph, TARGET), operation_costs(graph, floats)
    assert [cost.integer for cost in integer] == [True, True] and [cost.integer for cost in simulated] == [False, False]
    assert simulated[0].moved_bytes == 4 * integer[0].moved_bytes


class Sum(nn.Module):
    """x + x, and its mean."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((x + x).mean((2, 3)))


def test_operations_without_weights_are_bound_by_memory():
    costs = operation_costs(graph_of(Sum(), 4, 8, 8), TARGET)
    assert [(cost.macs, cost.bound) for cost in costs[:2]] == [(0, "memory")] * 2
    assert costs[0].moved_bytes == 3 * 4 * 64 and costs[1].moved_bytes == 4 * 64 + 4


def test_a_target_without_rates_is_refused():
    with pytest.raises(TargetError, match="states no `rates`"):
        operation_costs(graph_of(nn.Sequential(nn.Linear(4, 2)), 4), TARGET.model_copy(update={"rates": None}))
