"""Traces: operations, costs, layers, groups, and what cannot be traced."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import fingerprint, peak_activation_bytes, shrink, to_networkx, trace
from tsn_toolkit.graph.fx_trace import trace_by_fx
from tsn_toolkit.graph.trace import _edges, _layer_order, _layers, _nodes
from tsn_toolkit.models.resnet_cifar import resnet
from tsn_toolkit.models.small_cnn import small_cnn

sys.path.insert(0, str(Path(__file__).parent))
import graph_models as zoo  # noqa: E402

IMAGE = torch.zeros(2, 3, 8, 8)


def frozen(graph):
    """Frozen groups and their reasons."""
    return {group.name: group.frozen for group in graph.groups if group.frozen}


def test_resnet_20_by_hand():
    graph = trace(resnet(20), torch.zeros(1, 3, 32, 32))
    stem = 3 * 64 * 9 * 1024
    first = (64 * 16 * 9 + 16 * 16 * 9 + 64 * 16) * 1024 + 4 * 16 * 16 * 9 * 1024
    second = (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 256 + 4 * 32 * 32 * 9 * 256
    third = (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 64 + 4 * 64 * 64 * 9 * 64
    assert graph.macs == stem + first + second + third + 256 * 100
    assert graph.head == "linear" and graph.layers[-1].name == "linear" and graph.input_shape == (3, 32, 32)
    assert [layer.norm for layer in graph.layers[:4]] == ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.shortcut.1"]
    assert graph.group("layer2.0.conv2").producers == ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2", "layer2.2.conv2")
    assert not frozen(graph) and len(graph.groups) == 13
    assert sum(node.parameter_bytes for node in graph.nodes) == 4 * sum(p.numel() for p in resnet(20).parameters())
    # the widest moment: the stem's convolution and its norm, two maps of 64 x 32 x 32 floats
    assert peak_activation_bytes(graph) == 2 * 64 * 1024 * 4


def test_members_by_hand():
    graph = trace(zoo.Plain(), IMAGE)
    members = {(member.parameter, member.dim): member.unit.tolist() for member in graph.group("conv2").members}
    assert members.pop(("fc1.weight", 1)) == [unit for unit in range(6) for _ in range(16)]
    norm = {("bn2." + name, 0) for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(members) == norm | {("conv2.weight", 0), ("conv2.bias", 0)}
    assert all(unit == list(range(6)) for unit in members.values())
    assert graph.group("fc1").producers == ("fc1",) and [group.name for group in graph.groups] == ["conv1", "conv2", "fc1"]


def test_coupled_channels_are_one_unit():
    chunk = trace(zoo.ChunkAdd(), IMAGE).group("conv")
    assert chunk.size == 4
    assert {m.parameter: m.unit.tolist() for m in chunk.members}["conv.weight"] == [0, 1, 2, 3, 0, 1, 2, 3]
    grouped = trace(zoo.Grouped(), IMAGE)
    assert grouped.group("a").size == 4 and grouped.group("g").size == 6
    assert {(m.parameter, m.dim): m.unit.tolist() for m in grouped.group("a").members}[("g.weight", 1)] == [0, 1, 2, 3]


def test_concat_members_cover_their_part():
    graph = trace(zoo.Concat(), IMAGE)
    units = {group.name: {(m.parameter, m.dim): m.unit.tolist() for m in group.members} for group in graph.groups}
    assert units["a"][("norm.weight", 0)] == [0, 1, 2, 3, 4, 5] + [-1] * 5
    assert units["b"][("d.weight", 1)] == [-1] * 6 + [0, 1, 2, 3, 4] + [-1] * 7


@pytest.mark.parametrize(
    ("model", "example", "names", "open_groups", "reason"),
    [
        (zoo.LayerNormed, torch.zeros(1, 6), {"fc1"}, {"fc2"}, "layer_norm normalises them"),
        (zoo.Recurrent, torch.zeros(1, 5, 6), {"embed", "lstm"}, {"mix"}, "units of LSTM|`lstm` is an operation"),
        (zoo.SkipInput, IMAGE, {"conv"}, {"out"}, "meet a tensor whose entries cannot go"),
    ],
)
def test_what_cannot_go_is_frozen_and_named(model, example, names, open_groups, reason):
    graph = trace(model(), example)
    found = frozen(graph)
    assert set(found) == names
    assert {group.name for group in graph.groups} - set(found) == open_groups
    for text in found.values():
        assert any(part in text for part in reason.split("|")), text
        assert "graph_models.py:" in text


def test_control_flow_on_values_is_an_error_with_its_place(capfd):
    with pytest.raises(GraphError, match=r"graph_models\.py:\d+ in `if x\.sum\(\) > 0:`.*torch\.where"):
        trace(zoo.Branching(), torch.zeros(1, 6))
    assert capfd.readouterr().err == ""


def test_input_that_does_not_fit():
    with pytest.raises(GraphError, match=r"input of shape \(1, 4, 8, 8\).*expected input.*3 channels"):
        trace(zoo.Plain(), torch.zeros(2, 4, 8, 8))
    with pytest.raises(GraphError, match=r"got shape \(0, 3, 8, 8\)"):
        trace(zoo.Plain(), torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((), "holds no input"),
        ({"x": [1, 2]}, "`x` must be a tensor, got list"),
        ((torch.zeros(1, 6), torch.zeros(0, 6)), r"`input_1` must hold at least one example.*got shape \(0, 6\)"),
        ({"y": torch.zeros(1, 6)}, r"cannot run on an input of shape \(1, 6\).*argument 'y'"),
    ],
)
def test_wrong_inputs(example, message):
    with pytest.raises(GraphError, match=message):
        trace(zoo.LayerNormed(), example)


def test_the_same_graph_however_the_input_is_given():
    graph = trace(zoo.LayerNormed(), torch.zeros(1, 6))
    for example in ((torch.zeros(3, 6),), {"x": torch.zeros(2, 6)}):
        other = trace(zoo.LayerNormed(), example)
        assert (other.nodes, other.layers, other.input_shape) == (graph.nodes, graph.layers, (6,))
        assert [(g.name, g.size, g.frozen) for g in other.groups] == [(g.name, g.size, g.frozen) for g in graph.groups]


class OnlyFx(nn.Module):
    """A net that refuses to be exported."""

    def __init__(self, *hidden):
        super().__init__()
        self.fc, self.hidden, self.head = nn.Linear(6, 8), nn.Sequential(*hidden), nn.Linear(8, 3)

    def forward(self, x):
        if torch.compiler.is_exporting():
            raise RuntimeError("not in an export")
        return self.head(self.hidden(torch.relu(self.fc(x))))


def test_what_only_fx_can_trace_is_grouped_by_its_gradients():
    model = OnlyFx(nn.Linear(8, 8), nn.ReLU())
    graph = trace(model, torch.zeros(1, 6))
    assert graph.macs == 48 + 64 + 24 and not frozen(graph)
    members = {(member.parameter, member.dim) for member in graph.group("fc").members}
    assert members == {("fc.weight", 0), ("fc.bias", 0), ("hidden.0.weight", 1)} and graph.group("hidden.0").producers == ("hidden.0",)
    small = shrink(model, graph, {"fc": np.arange(8) < 5}).model
    assert (small.fc.out_features, small.hidden[0].in_features) == (5, 5)


def test_what_neither_export_nor_gradients_tell_is_frozen():
    with torch.device("meta"):
        graph = trace(OnlyFx(), torch.zeros(1, 6, device="meta"))
    assert "neither torch.export nor torch-pruning can read the model" in graph.group("fc").frozen


def test_heads():
    assert trace(zoo.Plain(), IMAGE, head="fc1").head == "fc1"
    with pytest.raises(GraphError, match="`fc3`.*did you mean `fc"):
        trace(zoo.Plain(), IMAGE, head="fc3")
    with pytest.raises(GraphError, match="no head"):
        trace(nn.Sequential(nn.ReLU()), IMAGE)
    everywhere_conv = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert trace(everywhere_conv, IMAGE).head == "2"


def test_units_added_to_the_output_stay():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.a(x) + self.b(x)

    graph = trace(TwoHeads(), torch.zeros(1, 6))
    assert graph.head == "b" and set(frozen(graph)) == {"a"} and "output" in frozen(graph)["a"]


def test_meta_gives_the_same_graph():
    with torch.device("meta"):
        empty = small_cnn(width=5)
    graph, real = trace(empty, torch.zeros(1, 1, 8, 8)), trace(small_cnn(width=5), torch.zeros(1, 1, 8, 8))
    assert graph.nodes == real.nodes and graph.edges == real.edges and graph.layers == real.layers
    assert [(g.name, g.size, g.producers, g.frozen) for g in graph.groups] == [(g.name, g.size, g.producers, g.frozen) for g in real.groups]
    assert all(parameter.is_meta for parameter in empty.parameters())


def test_tokens():
    graph = trace(zoo.Tokens(), torch.zeros(2, 7, dtype=torch.int64))
    assert not frozen(graph) and graph.group("embed").size == 8 and graph.nodes[0].dtype == "int64"


def test_tracing_leaves_the_model_alone():
    model = zoo.Residual().train()
    model.norm_a.eval()
    calls = []
    model.stem.register_forward_hook(lambda *args: calls.append(1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    trace(model, IMAGE)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and not model.norm_a.training and len(model.stem._forward_hooks) == 1
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_double_edges_and_order():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(x + x)

    view = to_networkx(trace(Twice(), torch.zeros(1, 6)))
    add = next(name for name, data in view.nodes(data=True) if data["op"] == "add")
    source = next(iter(view.predecessors(add)))
    assert view.number_of_edges(source, add) == 2


def test_fx_agrees_with_export():
    """The fallback gives the same layers, costs and norms on a model that both can trace."""
    model = small_cnn(width=5).eval()
    by_export = trace(model, torch.zeros(1, 1, 8, 8))
    operations = trace_by_fx(model, by_export.inputs, (torch.zeros(1, 1, 8, 8),))
    assert sum(node.macs for node in _nodes(model, operations)) == by_export.macs
    assert _layers(model, operations, _layer_order(model, operations)) == by_export.layers
    assert len(_edges(operations)) == len(by_export.edges)


def test_fingerprint_depends_on_structure_only():
    model = zoo.Plain()
    before = fingerprint(model)
    with torch.no_grad():
        model.conv1.weight.zero_()
    assert fingerprint(model) == before == fingerprint(zoo.Plain()) and len(before) == 64
    model.fc2 = nn.Linear(12, 6)
    assert fingerprint(model) != before
    assert fingerprint(nn.Sequential(nn.ReLU())) != fingerprint(nn.Sequential(nn.GELU()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_model_without_copies_names_the_layer():
    """torch.nn.utils.weight_norm keeps the product as an attribute, which cannot be copied."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), torch.nn.utils.weight_norm(nn.Linear(6, 2)))
    with pytest.raises(GraphError, match=r"Layer `2` \(Linear\) keeps a computed tensor, `weight`.*remove_weight_norm"):
        trace(model, torch.zeros(1, 6))
    torch.nn.utils.remove_weight_norm(model[2])
    assert trace(model, torch.zeros(1, 6)).head == "2"
