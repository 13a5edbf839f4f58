"""Heads as units: what can be scored of attention, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tsn_toolkit.contracts import GroupMember, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import trace
from tsn_toolkit.registry import load

HEADS = np.repeat(np.arange(4), 2)


class Whole(nn.Module):
    """nn.MultiheadAttention, which calls none of its layers."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class TransposedLinear(nn.Module):
    """A linear layer whose weight is (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.nf, self.weight = outputs, nn.Parameter(torch.randn(inputs, outputs) / 3)

    def forward(self, x):
        return x @ self.weight


@pytest.fixture
def heads():
    """Model, a graph whose one group is the heads, and a batch."""
    torch.manual_seed(0)
    model, x = Whole(), torch.randn(6, 5, 8)
    members = (GroupMember("attention.in_proj_weight", 0, np.tile(HEADS, 3)), GroupMember("attention.out_proj.weight", 1, HEADS))
    graph = replace(trace(model, x), groups=(UnitGroup("attention", 4, members, ("attention",)),))
    return model, graph, [(x, torch.randint(0, 3, (6,)))]


def test_magnitude_and_fisher_count_the_rows_of_a_head(heads):
    model, graph, batches = heads
    weight = model.attention.in_proj_weight
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(batches[0][0]), batches[0][1]), weight)
    of_head = np.tile(HEADS, 3) == 2
    found = load("tsn_toolkit.importance", "magnitude").score(model, graph)["attention"]
    assert found[2] == pytest.approx(float(weight[of_head].detach().norm()), rel=1e-5)
    found = load("tsn_toolkit.importance", "fisher").score(model, graph, batches, F.cross_entropy)["attention"]
    assert found[2] == pytest.approx(float(0.5 * 6 * (weight * gradient)[of_head].detach().square().sum()), rel=1e-4)


@pytest.mark.parametrize(("name", "message"), [("taylor", "`attention` .MultiheadAttention. gives no tensor"), ("wanda", "without calling"),
                                               ("obs", "inputs of `attention.in_proj_weight`"), ("relevance", "gives no tensor")])  # fmt: skip
def test_what_cannot_see_into_the_module_says_so(heads, name, message):
    with pytest.raises(GraphError, match=message):
        load("tsn_toolkit.importance", name).score(*heads, F.cross_entropy)


def test_layers_with_a_transposed_weight_score_like_plain_ones():
    """Hidden units over positions (n, positions, units), once with weights (in, out) and once with (out, in)."""
    torch.manual_seed(0)
    made, read, head = TransposedLinear(4, 6), TransposedLinear(6, 5), nn.Linear(5, 3)
    plain_made, plain_read = nn.Linear(4, 6, bias=False), nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        plain_made.weight.copy_(made.weight.T), plain_read.weight.copy_(read.weight.T)
    batches = [(torch.randn(7, 3, 4), torch.randint(0, 3, (7,)))]

    def loss(logits, y):
        return F.cross_entropy(logits.mean(1), y)

    plain = nn.Sequential(plain_made, nn.ReLU(), plain_read, nn.ReLU(), head)
    graph = trace(plain, batches[0][0])
    hidden = UnitGroup("0", 6, (GroupMember("0.weight", 1, np.arange(6)), GroupMember("2.weight", 0, np.arange(6))), ("0",))
    for name in ("magnitude", "fisher", "taylor", "wanda", "relevance"):
        module = load("tsn_toolkit.importance", name)
        expected = module.score(plain, replace(graph, groups=(graph.group("0"),)), batches, loss)["0"]
        found = module.score(nn.Sequential(made, nn.ReLU(), read, nn.ReLU(), head), replace(graph, groups=(hidden,)), batches, loss)["0"]
        assert found == pytest.approx(expected, rel=1e-4), name
