"""Masked equals shrunk, and the shrunk model is really smaller, on many architectures and on random small graphs."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tsn_toolkit.graph import trace

sys.path.insert(0, str(Path(__file__).parent))
import architecture_models as zoo  # noqa: E402
from removal import check_macs, check_reduction, check_removal, random_masks  # noqa: E402

IMAGE, WORDS = torch.zeros(2, 3, 8, 8), torch.zeros(1, 6, 8)
CROSS = {"query": torch.zeros(1, 4, 6), "memory": torch.zeros(1, 7, 5), "mask": torch.zeros(1, 7, dtype=torch.bool)}
BOTH = (torch.zeros(2, 3, 6, 6), torch.zeros(2, 5, dtype=torch.int64))
CASES = {
    "split_concat": (zoo.SplitConcat, IMAGE),
    "channel_shuffle": (zoo.ChannelShuffle, IMAGE),
    "pixel_shuffle": (zoo.PixelShuffled, IMAGE),
    "transposed": (zoo.Transposed, IMAGE),
    "one_dimensional": (zoo.OneDimensional, torch.zeros(2, 4, 8)),
    "group_norm": (zoo.GroupNormed, IMAGE),
    "dense_block": (zoo.DenseBlock, IMAGE),
    "fused_qkv": (partial(zoo.Transformer, zoo.Fused), WORDS),
    "chunked_qkv": (partial(zoo.Transformer, zoo.Chunked), WORDS),
    "as_many_heads_as_channels_each": (partial(zoo.Transformer, zoo.Chunked, 4, 16), WORDS),
    "separate_qkv": (partial(zoo.Transformer, zoo.Separate, 2), WORDS),
    "grouped_query": (partial(zoo.Transformer, zoo.Grouped), WORDS),
    "multihead_attention": (partial(zoo.Transformer, zoo.Torch, 8), WORDS),
    "multihead_attention_without_bias": (partial(zoo.Transformer, partial(zoo.Torch, bias=False)), WORDS),
    "encoder": (zoo.Encoder, torch.zeros(1, 6, 16)),
    "encoder_norm_first": (partial(zoo.Encoder, norm_first=True, activation="gelu"), torch.zeros(1, 6, 16)),
    "cross_attention": (zoo.CrossAttention, CROSS),
    "gated_tokens": (zoo.GatedTokens, torch.tensor([[1, 2, 12, 4]])),
    "tied_twice": (zoo.TiedTwice, torch.zeros(1, 6)),
    "text_and_image": (zoo.TextAndImage, BOTH),
    "text_and_image_masked": (zoo.TextAndImage, (*BOTH, torch.ones(2, 5))),
}
GRAPHS = {}


def traced(name):
    """A model and its graph, traced once."""
    if name not in GRAPHS:
        torch.manual_seed(0)
        model = CASES[name][0]().eval()
        GRAPHS[name] = model, trace(model, CASES[name][1])
    return GRAPHS[name]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_masked_equals_shrunk(name, seed):
    check_removal(*traced(name), seed)


@pytest.mark.parametrize("name", CASES)
def test_really_smaller(name):
    check_reduction(*traced(name))


@pytest.mark.parametrize("name", CASES)
def test_the_plan_counts_the_macs_that_stay(name):
    check_macs(*traced(name))


def frozen(name):
    return {group.name: group.frozen for group in traced(name)[1].groups if group.frozen}


@pytest.mark.parametrize("name", ["split_concat", "channel_shuffle", "pixel_shuffle", "one_dimensional", "group_norm", "dense_block", "tied_twice"])
def test_nothing_is_frozen_without_need(name):
    assert frozen(name) == {}


@pytest.mark.parametrize(
    ("name", "heads"),
    [("fused_qkv", 4), ("chunked_qkv", 4), ("separate_qkv", 2), ("grouped_query", 2), ("multihead_attention", 8), ("encoder_norm_first", 4)],
)
def test_heads_are_units_and_the_residual_stream_stays(name, heads):
    graph = traced(name)[1]
    reasons = frozen(name)
    open_sizes = sorted(group.size for group in graph.groups if not group.frozen)
    assert open_sizes == sorted([heads, 40] * 2)
    assert reasons and all(".py:" in reason for reason in reasons.values())
    if name != "encoder_norm_first":  # whose stream starts with the input itself
        assert any("layer_norm normalises them over one another" in reason for reason in reasons.values())


def test_fused_projection_by_hand():
    """Head h of 4 with width 4 owns rows 4h..4h+3 of q, of k and of v, and columns 4h..4h+3 of the output projection."""
    group = traced("fused_qkv")[1].group("blocks.0.attention.qkv")
    members = {(member.parameter, member.dim): member.unit.tolist() for member in group.members}
    per_head = [head for head in range(4) for _ in range(4)]
    assert members == {
        ("blocks.0.attention.qkv.weight", 0): per_head * 3,
        ("blocks.0.attention.qkv.bias", 0): per_head * 3,
        ("blocks.0.attention.proj.weight", 1): per_head,
    }
    assert [(size.module, size.attribute, size.unit.tolist()) for size in group.sizes] == [("blocks.0.attention", "num_heads", [0, 1, 2, 3])]


def test_grouped_queries_go_with_their_key():
    group = traced("grouped_query")[1].group("blocks.0.attention.q")
    members = {(member.parameter, member.dim): member.unit.tolist() for member in group.members}
    assert members[("blocks.0.attention.q.weight", 0)] == [0] * 8 + [1] * 8
    assert members[("blocks.0.attention.k.weight", 0)] == members[("blocks.0.attention.v.weight", 0)] == [0] * 4 + [1] * 4
    assert group.producers == tuple(f"blocks.0.attention.{name}" for name in "qkv")


def test_head_wise_parameters_lose_their_column():
    group = traced("separate_qkv")[1].group("blocks.1.attention.q")
    assert {(m.parameter, m.dim): m.unit.tolist() for m in group.members}[("blocks.1.attention.bias", 1)] == [0, 1]


def test_inputs_are_recorded():
    records = traced("text_and_image")[1].inputs
    assert [(r.name, r.shape, r.dtype, r.upper, r.keyword) for r in records] == [
        ("image", (3, 6, 6), "float32", 0, False),
        ("ids", (5,), "int64", 17, False),
    ]
    graph = traced("cross_attention")[1]
    assert [(r.name, r.dtype, r.upper, r.keyword) for r in graph.inputs][1:] == [("memory", "float32", 0, True), ("mask", "bool", 2, True)]
    assert graph.input_shape == (4, 6)


def test_a_single_head_keeps_the_channels_that_its_scale_counts():
    """Without a dimension for heads, channels of the value can go one by one; those of query and key change the default scale."""

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 10), nn.Linear(10, 3)

        def forward(self, x):
            return self.o(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    graph = trace(Single(), WORDS)
    assert "a single unit" in graph.group("q").frozen and graph.group("q").producers == ("q", "k")
    assert not graph.group("v").frozen and graph.group("v").size == 10
    check_removal(Single(), graph, 0)


def test_literal_widths_freeze_their_group():
    """A width written into the code cannot follow the heads: the group stays, with the place; the rest goes."""

    class Literal(zoo.Fused):
        def forward(self, x):
            q, k, v = self.qkv(x).reshape(len(x), 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 6, 16))

    graph = trace(zoo.Transformer(Literal), WORDS)
    reasons = {group.name: group.frozen for group in graph.groups}
    assert "cannot run" in reasons["blocks.0.attention.qkv"] and "test_architectures.py:" in reasons["blocks.0.attention.qkv"]
    assert reasons["blocks.0.fc1"] == reasons["blocks.1.fc1"] == ""


def test_a_head_that_depends_on_the_others_stays():
    """The averaged attention weights are an output: no head can go."""

    class Averaged(zoo.Torch):
        def forward(self, x):
            y, weights = self.attend(x, x, x)
            return y + weights.mean((1, 2))[:, None, None]

    graph = trace(zoo.Transformer(Averaged), WORDS)
    assert "mean is taken over them" in graph.group("blocks.0.attention.attend").frozen
    assert not graph.group("blocks.0.fc1").frozen


class RandomNet(nn.Module):
    """Blocks on images of 6 x 6, drawn by hypothesis: every block reads one or two earlier maps."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.layers, widths = plan, nn.ModuleDict(), [4]
        for number, (kind, one, other, width) in enumerate(plan):
            a, b = widths[one % len(widths)], widths[other % len(widths)]
            if kind in {"conv", "norm", "depthwise"}:
                made = {"conv": nn.Conv2d(a, width, 3, padding=1), "norm": nn.BatchNorm2d(a), "depthwise": nn.Conv2d(a, a, 3, padding=1, groups=a)}
                self.layers[str(number)] = made[kind]
            elif kind == "add":
                self.layers[str(number)] = nn.Conv2d(b, a, 1)
            elif kind == "gate":
                self.layers[str(number)] = nn.Linear(b, a)
            widths.append({"conv": width, "concat": a + b, "half": a // 2 if a % 2 == 0 else a}.get(kind, a))
        self.last, self.head = nn.Conv2d(widths[-1], 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        maps = [torch.cat([x, x[:, :1]], 1)]
        for number, (kind, one, other, _) in enumerate(self.plan):
            a, b = maps[one % len(maps)], maps[other % len(maps)]
            layer = self.layers[str(number)] if str(number) in self.layers else None
            if kind in {"conv", "norm", "depthwise"}:
                y = layer(a)
            elif kind == "add":
                y = a + layer(b)
            elif kind == "gate":
                y = a * torch.sigmoid(layer(b.mean((2, 3))))[:, :, None, None]
            elif kind == "concat":
                y = torch.cat([a, b], 1)
            elif kind == "half":
                y = a.chunk(2, 1)[0] * a.chunk(2, 1)[1] if a.shape[1] % 2 == 0 else a
            else:
                y = torch.relu(a)
            maps.append(y)
        return self.head(torch.relu(self.last(maps[-1])).mean((2, 3)))


BLOCK = st.tuples(
    st.sampled_from(["conv", "conv", "norm", "relu", "add", "concat", "depthwise", "gate", "half"]),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(2, 6),
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(BLOCK, min_size=2, max_size=8))
def test_random_graphs(plan):
    torch.manual_seed(0)
    model = RandomNet([("conv", 0, 0, 6), *plan]).eval()
    graph = trace(model, torch.zeros(1, 3, 6, 6))
    if random_masks(graph, 0):
        check_removal(model, graph, 0)
