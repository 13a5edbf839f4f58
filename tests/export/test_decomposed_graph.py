"""The integer model as torch operations with explicit quantization: the same numbers as Brevitas', and codes where backends look for them."""

import export_models as models
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.decomposed_graph import DecomposedGraph
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges


class OneDimensional(nn.Module):
    """Convolutions, one of them depthwise, and each kind of pooling over (batch, channels, length)."""

    def __init__(self, pooling: nn.Module, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 8, 5, padding=2), nn.Conv1d(8, 8, 3, stride=2, groups=8)
        self.pooling, self.linear = pooling, nn.Linear(features, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.linear(self.pooling(x).flatten(1))


def signals(count: int, seed: int = 1) -> torch.Tensor:
    """Standard normal (count, 3, 16)."""
    return torch.randn(count, 3, 16, generator=torch.Generator().manual_seed(seed))


def integer_model(module: nn.Module, batch: torch.Tensor):
    task = models.extracted_of(module)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [batch])
    return build_integer_model(task.model, task.q, task.scale, batch[:1], ranges=ranges)


def differing_codes(reference, x: torch.Tensor) -> float:
    """Share of output codes that differ by more than half a step; both sides compute in floats, which round halves either way."""
    with torch.no_grad():
        got, wanted = DecomposedGraph(reference)(x), reference(x)
    return float(((got - wanted).abs() > 0.5 * reference.output_step).float().mean())


@pytest.mark.parametrize("pooling, features", [(nn.MaxPool1d(3, 2, 1), 32), (nn.AvgPool1d(2), 24), (nn.AdaptiveAvgPool1d(1), 8)])
def test_one_dimensional_networks_give_the_same_codes(pooling, features):
    reference = integer_model(OneDimensional(pooling, features), signals(32))
    assert differing_codes(reference, signals(64, seed=5)) < 0.03


def test_residual_networks_give_the_same_codes():
    assert differing_codes(integer_model(models.ResidualNet(), models.inputs(32)), models.inputs(64, seed=5)) < 0.01


def test_every_layer_reads_and_writes_codes():
    """Between the quantizers around a layer stands nothing else, and what moves codes is quantized again."""
    reference = integer_model(OneDimensional(nn.MaxPool1d(2), 24), signals(32))
    graph = torch.export.export(DecomposedGraph(reference).eval(), (signals(2),)).graph
    dequantized = {node for node in graph.nodes if "dequantize_per_tensor" in node.name}
    for node in graph.nodes:
        if any(part in str(node.target) for part in ("aten.conv1d", "aten.linear", "aten.max_pool2d", "aten.view")):
            assert node.args[0] in dequantized, node
            assert all("quantize_per_tensor" in user.name for user in node.users), node
    weights = [node for node in graph.nodes if "dequantize_per_channel" in node.name]
    assert len(weights) == 3


def test_layerwise_models_are_refused():
    class Controlled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(192, 4)

        def forward(self, x):
            return self.linear(x.flatten(1)) if x.sum() > -1e9 else F.relu(self.linear(x.flatten(1)))

    with pytest.raises(ExportError, match="quantized as a graph; this one is layerwise: Brevitas' graph mode failed"):
        DecomposedGraph(integer_model(Controlled(), models.inputs(8)))
