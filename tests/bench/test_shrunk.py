"""Latency of shrunk networks: fewer units, less time; the model stays."""

import pytest
import torch
from torch import nn

from tsn_toolkit.bench.shrunk import shrunk_latency
from tsn_toolkit.graph import trace
from tsn_toolkit.target import load_target


@pytest.mark.slow
def test_a_network_with_an_eighth_of_its_units_is_faster():
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256 * 28 * 28, 4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    measure = shrunk_latency(model, graph, load_target("cpu_onnxruntime"), torch.zeros(1, 3, 32, 32), seconds=0.2)
    whole, small = measure({}), measure({"0": 32, "2": 32})
    assert small < whole / 4, "an eighth of the units on both sides of the second convolution costs a 64th of its multiply-accumulates"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
