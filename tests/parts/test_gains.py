import torch

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.gains import clamp_gains_, foldable_norms


def test_only_entries_below_the_minimum_are_lifted():
    gain = torch.tensor([-1.0, 0.0, 0.5, 1e-3])
    clamp_gains_([gain], 1e-3)
    assert gain.tolist() == [torch.tensor(1e-3).item(), torch.tensor(1e-3).item(), 0.5, torch.tensor(1e-3).item()]


def test_every_norm_of_the_small_network_follows_a_layer():
    graph = trace(small_cnn(width=4).eval(), torch.zeros(1, 1, 8, 8))
    assert foldable_norms(graph) == ["bn1", "bn2", "bn3", "bn4"]
