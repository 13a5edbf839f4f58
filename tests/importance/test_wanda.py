"""Wanda against loops over single positions, for every kind of layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import trace
from tsn_toolkit.importance import wanda
from tsn_toolkit.importance._inputs import input_energy

SHAPES = {
    "plain": {"kernel_size": 3},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    "grouped": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 4, "dilation": 2, "padding": 2},
    "same, reflected": {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
}


def padded(conv, x):
    """The input with its border, so that windows need no padding."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    amounts = [1, 1] if conv.padding == "same" else conv.padding
    return functional.pad(x, [amounts[1], amounts[1], amounts[0], amounts[0]], mode=mode)


def columns_of(conv, x):
    """Reference: (n * positions, groups, inputs of one output), gathered position by position."""
    x, rows = padded(conv, x), []
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    height, width = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1, (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    for example in x:
        for i in range(height):
            for j in range(width):
                window = example[:, i * sh : i * sh + (kh - 1) * dh + 1 : dh, j * sw : j * sw + (kw - 1) * dw + 1 : dw]
                rows.append(window.reshape(conv.groups, -1))
    return torch.stack(rows)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_convolutions_weights_by_loops(shape):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, **shape)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(5, 4, 7, 6)
    model(x)
    found = wanda.weight_scores(model, trace(model, x), [(x[:2], None), (x[2:], None)])["0"]
    norms = (columns_of(conv, x).double() ** 2).sum(0).div(5).sqrt()  # (groups, inputs)
    expected = (conv.weight.detach().double().reshape(conv.groups, 8 // conv.groups, -1).abs() * norms[:, None]).reshape(conv.weight.shape)
    assert found == pytest.approx(expected.numpy(), rel=1e-4)


def test_linear_layers_and_embeddings_by_hand():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]]))
        model[1].weight.copy_(torch.tensor([[-1.0, 0.5]]))
    tokens = torch.tensor([[0, 1], [0, 0]])
    found = wanda.weight_scores(model, trace(model, tokens), [(tokens, None)])
    assert set(found) == {"1"}  # an embedding is no layer whose weights a plan codes
    counts = np.array([3, 1, 0])  # of each token in two examples
    energy = input_energy(model, ["0"], [(tokens, None)])["0"]
    assert energy.numpy() == pytest.approx(np.repeat(counts / 2, 2).reshape(3, 2))
    assert found["1"] == pytest.approx(np.array([[1 * (3 * 1 + 9), 0.5**2 * (3 * 4 + 16)]]) ** 0.5 / 2**0.5)


def test_units_count_what_all_their_readers_would_miss():
    torch.manual_seed(0)

    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.head((torch.relu(self.a(x)) * torch.sigmoid(self.b(x))).mean((2, 3)))

    model, x = Forked(), torch.randn(6, 2, 5, 5)
    found = wanda.score(model, trace(model, x), [(x, None)])["stem"]
    energy = (columns_of(model.a, torch.relu(model.stem(x))).double() ** 2).sum(0).div(6).reshape(3, 3, 3)
    both = model.a.weight.double() ** 2 + model.b.weight.double() ** 2
    assert found == pytest.approx((both * energy).sum((0, 2, 3)).sqrt().detach().numpy(), rel=1e-4)


def test_a_weight_that_is_used_without_its_layer_is_refused():
    class Borrowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.relu(functional.linear(x, self.inner.weight)))

    model, x = Borrowed(), torch.randn(2, 3)
    graph = trace(model, x)
    if "inner" not in {layer.name for layer in graph.layers}:
        pytest.skip("the analyzer does not list a layer that is not called")
    with pytest.raises(GraphError, match="`inner` without calling"):
        wanda.weight_scores(model, graph, [(x, None)])
