"""Optimal brain surgeon against the constrained least squares problem that it solves, one weight at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import trace
from tsn_toolkit.importance import obs
from tsn_toolkit.models.small_cnn import small_cnn


def least_growth(weights, rows, examples):
    """Reference: smallest d^T H d with d_j = -w_j, by elimination of the free entries; weights (inputs,), rows (positions, inputs)."""
    hessian = rows.T @ rows / examples
    damped = hessian + 0.01 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    growth = []
    for j in range(len(weights)):
        free = [i for i in range(len(weights)) if i != j]
        step = np.zeros(len(weights))
        step[j] = -weights[j]
        step[free] = np.linalg.solve(damped[np.ix_(free, free)], damped[free, j] * weights[j])
        growth.append(step @ damped @ step)
    return np.array(growth)


def test_a_linear_layer_by_constrained_least_squares():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(20, 5) @ torch.randn(5, 5)  # correlated inputs, so that the rest of a row can make up for a weight
    found = obs.weight_scores(model, trace(model, x), [(x[:8], None), (x[8:], None)])["0"]
    for row, weights in enumerate(model[0].weight.detach().double().numpy()):
        assert found[row] == pytest.approx(least_growth(weights, x.double().numpy(), 20), rel=1e-3)
    uncorrelated = model[0].weight.detach().double().numpy() ** 2 * (x.double().numpy() ** 2).mean(0)
    assert (found < 0.9 * uncorrelated).all()


@pytest.mark.parametrize(("groups", "outputs"), [(1, 2), (2, 4), (4, 4)])
def test_convolutions_by_constrained_least_squares(groups, outputs):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, outputs, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1), groups=groups)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(6, 4, 6, 7)
    model(x)
    found = obs.weight_scores(model, trace(model, x), [(x, None)])["0"]
    patches = functional.unfold(x, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1)).transpose(1, 2).flatten(0, 1).double().numpy()
    inputs = patches.shape[1] // groups
    damping_free = [patches[:, g * inputs : (g + 1) * inputs] for g in range(groups)]
    if groups == 1:  # the reference damps one H; with groups the mean of the diagonal is that of all
        for output in range(outputs):
            weights = conv.weight[output].detach().double().numpy().ravel()
            assert found[output].ravel() == pytest.approx(least_growth(weights, damping_free[0], 6), rel=1e-3)
        return
    mean = np.mean([(rows**2).sum(0) / 6 for rows in damping_free])
    for output in range(outputs):
        rows = damping_free[output // (outputs // groups)]
        inverse = np.linalg.inv(rows.T @ rows / 6 + 0.01 * mean * np.eye(inputs))
        expected = conv.weight[output].detach().double().numpy().ravel() ** 2 / np.diag(inverse)
        assert found[output].ravel() == pytest.approx(expected, rel=1e-3)


def test_one_dimensional_convolutions_and_embeddings():
    torch.manual_seed(0)

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv, self.head = nn.Embedding(6, 4), nn.Conv1d(4, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, tokens):
            return self.head(torch.relu(self.conv(self.embed(tokens).transpose(1, 2))).mean(2))

    model, tokens = Text(), torch.randint(0, 5, (7, 9))
    assert "embed" not in obs.weight_scores(model, trace(model, tokens), [(tokens, None)])  # it is no layer whose weights a plan codes
    found = obs._errors(model, ["embed", "conv"], [(tokens, None)])
    counts = np.bincount(tokens.flatten().numpy(), minlength=6)
    assert found["embed"] == pytest.approx(model.embed.weight.detach().double().numpy() ** 2 * counts[:, None] / 7, rel=1e-5)
    x = functional.pad(model.embed(tokens).transpose(1, 2), (1, 1)).detach()
    rows = torch.stack([x[n, :, i : i + 3].flatten() for n in range(7) for i in range(9)]).double().numpy()
    assert found["conv"][1].ravel() == pytest.approx(least_growth(model.conv.weight[1].detach().double().numpy().ravel(), rows, 7), rel=1e-3)


def test_inputs_that_are_never_active_score_zero():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(9, 4)
    x[:, 2] = 0
    graph = trace(model, x)
    found = obs.weight_scores(model, graph, [(x, None)])["0"]
    assert (found[:, 2] == 0).all() and (np.delete(found, 2, axis=1) > 0).all()
    assert not obs.weight_scores(model, graph, [(torch.zeros(3, 4), None)])["0"].any()


def test_units_sum_over_the_layers_on_both_sides():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(8, 2, 6, 6)
    graph = trace(model, x)
    weights, units = obs.weight_scores(model, graph, [(x, None)]), obs.score(model, graph, [(x, None)])
    assert units["0"] == pytest.approx(weights["0"].sum((1, 2, 3)) + weights["2"].sum((0, 2, 3)))
    assert units["2"] == pytest.approx(weights["2"].sum((1, 2, 3)) + weights["5"].sum(0).reshape(3, 4).sum(1))


def test_units_of_a_residual_group_count_all_their_producers():
    torch.manual_seed(0)
    model = small_cnn(width=2, classes=3).eval()
    x = torch.randn(6, 1, 8, 8)
    graph = trace(model, x)
    weights, units = obs.weight_scores(model, graph, [(x, None)]), obs.score(model, graph, [(x, None)])
    made = weights["conv2"].sum((1, 2, 3)) + weights["conv3"].sum((1, 2, 3))
    assert units["conv2"] == pytest.approx(made + weights["conv3"].sum((0, 2, 3)) + weights["conv4"].sum((0, 2, 3)))


def test_many_inputs_fall_into_blocks_without_interaction(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(20, 5) @ torch.randn(5, 5)
    graph = trace(model, x)
    monkeypatch.setattr(obs, "MAX_COLUMNS", 3)
    found = obs.weight_scores(model, graph, [(x, None)])["0"]
    hessian = (x.T @ x / 20).double().numpy()
    hessian[:3, 3:] = hessian[3:, :3] = 0
    inverse = np.linalg.inv(hessian + 0.01 * np.trace(hessian) / 5 * np.eye(5))
    assert found == pytest.approx(model[0].weight.detach().double().numpy() ** 2 / np.diag(inverse), rel=1e-3)
    assert [block.shape for block in obs._hessians(model, {"0": model[0]}, [(x, None)])["0"]] == [(1, 3, 3), (1, 2, 2)]


def test_many_positions_are_sampled_without_bias_and_reproducibly(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(300, 2))
    x = torch.randn(40, 2, 12, 12)
    graph = trace(model, x)
    whole = obs.weight_scores(model, graph, [(x, None)])["0"]
    monkeypatch.setattr(obs, "MAX_ROWS", 1500)
    sampled, again = (obs.weight_scores(model, graph, [(x, None)])["0"] for _ in range(2))
    assert np.array_equal(sampled, again) and not np.array_equal(sampled, whole)
    assert sampled == pytest.approx(whole, rel=0.25) and sampled.sum() == pytest.approx(whole.sum(), rel=0.05)


def test_a_transposed_convolution_is_refused():
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(2, 2, 3, 3)
    with pytest.raises(GraphError, match=r"`0` \(ConvTranspose2d\), whose weight is transposed"):
        obs.score(model, trace(model, x), [(x, None)])
