"""The formula against what torch counts on a dense network, and against plain loops on a sparse one."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.training_cost import LayerCost, TrainingCost, step_flops


@pytest.mark.parametrize(("classes", "replayed"), [(6, 0), (6, 5), (9, 5)])
def test_a_dense_step_with_replay_is_what_torch_counts(classes, replayed):
    """Torch counts convolutions and matrix products of the forward and the backward pass, without products for bias and norms."""
    graph = trace(small_cnn(width=4, classes=6), torch.zeros(1, 1, 8, 8))
    model = small_cnn(width=4, classes=classes)
    with FlopCounterMode(display=False) as counter:
        loss = functional.cross_entropy(model(torch.randn(7, 1, 8, 8)), torch.zeros(7, dtype=torch.int64))
        if replayed:
            loss = loss + model(torch.randn(replayed, 1, 8, 8)).square().mean()
        loss.backward()
    cost = TrainingCost(graph.layers, head=graph.head, logits=classes)
    cost.add_step(7 + replayed, {}, {})
    assert cost.flops == counter.get_total_flops()


def multiply_adds(a, b):
    """Of the product of two matrices, each entry of the factors that is 0 skipped."""
    return sum(int(a[i, k] != 0 and b[k, j] != 0) for i in range(a.shape[0]) for k in range(a.shape[1]) for j in range(b.shape[1]))


def test_a_sparse_step_is_what_plain_loops_do():
    """Two linear layers, 6 -> 5 -> 4, the second with 8 of 20 weights and 3 of 20 gradients; entries of x and the output's gradient are not 0."""
    rng = np.random.default_rng(0)
    x, w1, w2 = rng.uniform(1, 2, (7, 6)), rng.uniform(1, 2, (5, 6)), np.zeros((4, 5))
    w2.flat[rng.permutation(20)[:8]] = 1.0
    pattern = np.zeros((4, 5), bool)
    pattern.flat[rng.permutation(20)[:3]] = True
    hidden, gradient = x @ w1.T, rng.uniform(1, 2, (7, 4))
    counted = multiply_adds(x, w1.T) + multiply_adds(hidden, w2.T)
    counted += multiply_adds(gradient, w2)  # input gradient of the second layer; the first needs none
    counted += sum(7 for keep in pattern.flat if keep)  # weight gradient: a sum over the examples per entry that is wanted
    counted += multiply_adds(x.T, np.ones((7, 5)))
    layers = [LayerCost(30, first=True), LayerCost(20, first=False, density=8 / 20, gradient_density=3 / 20)]
    assert step_flops(layers, 7) == pytest.approx(2 * counted)


def test_steps_and_operations_add_up():
    graph = trace(small_cnn(width=4, classes=6), torch.zeros(1, 1, 8, 8))
    cost = TrainingCost(graph.layers, head=graph.head, logits=6)
    cost.add_step(1, {}, {})
    dense = cost.flops
    cost.add_operations(11)
    cost.add_step(2, {"conv3": 0.5}, {"conv4": 0.25})
    macs = {layer.name: layer.macs for layer in graph.layers}
    saved = 2 * (2 * macs["conv3"] * 3 * 0.5 + 2 * macs["conv4"] * 0.75)
    assert cost.flops == pytest.approx(3 * dense + 11 - saved)
