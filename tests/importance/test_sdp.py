"""SDP against its definition written out example by example, and its parts by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.importance import sdp
from tsn_toolkit.models.mlp import mlp


def test_the_direction_moves_only_what_would_be_pruned():
    """|g w| = 3, 0.2, 0.1, 8: the middle two are candidates, with gradients 2 and 1."""
    weights = {"a": torch.tensor([3.0, 0.1]), "b": torch.tensor([0.1, -4.0])}
    gradients = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([1.0, -2.0])}
    step = sdp.pruning_direction(weights, gradients, candidates=0.5, rho=0.3)
    torch.testing.assert_close(step["a"], torch.tensor([0.0, 2.0]) * 0.3 / 5**0.5)
    torch.testing.assert_close(step["b"], torch.tensor([1.0, 0.0]) * 0.3 / 5**0.5)


def test_weights_that_are_pruned_already_are_no_candidates():
    """Three of seven are left, |g w| = 3, 0.2, 8: two are candidates; |g w| = 0 of the others says nothing."""
    weights = {"a": torch.tensor([3.0, 0.1, 0.0, 0.0]), "b": torch.tensor([0.0, -4.0, 0.0])}
    gradients = {"a": torch.tensor([1.0, 2.0, 50.0, 50.0]), "b": torch.tensor([50.0, -2.0, 50.0])}
    step = sdp.pruning_direction(weights, gradients, candidates=2 / 3, rho=0.3)
    torch.testing.assert_close(step["a"], torch.tensor([1.0, 2.0, 0.0, 0.0]) * 0.3 / 5**0.5)
    assert not step["b"].any()
    assert not sdp.pruning_direction({"a": torch.zeros(3)}, {"a": torch.ones(3)}, candidates=0.5, rho=0.1)["a"].any()


def test_no_gradient_is_no_step():
    step = sdp.pruning_direction({"a": torch.ones(3)}, {"a": torch.zeros(3)}, candidates=1.0, rho=0.1)
    assert (step["a"] == 0).all()


def test_examples_whose_loss_rises_most():
    before, after = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]), torch.tensor([1.5, 3.0, 0.0, 1.5, 2.0])
    assert sdp.largest_rises(before, after, 0.4).tolist() == [1, 4]
    assert sdp.largest_rises(before, after, 0.6).tolist() == [0, 1, 4]
    assert sdp.largest_rises(before, after, 0.01).tolist() == [1]


def written_out(model, names, batches):
    """The definition with one gradient per example and plain loops, float64."""
    parameters = dict(model.named_parameters())
    weights = [parameters[name] for name in names]

    def loss_of(x, y):
        return functional.cross_entropy(model(x), y)

    gradients = [torch.autograd.grad(loss_of(x, y), weights) for x, y in batches]
    mean = [sum(batch[index] for batch in gradients) / len(batches) for index in range(len(weights))]
    products = torch.cat([(gradient * weight).abs().flatten() for gradient, weight in zip(mean, weights, strict=True)]).detach()
    border = products.sort().values[round(0.5 * len(products)) - 1]
    kept = [torch.where((g * w).abs() <= border, g, 0.0) for g, w in zip(mean, weights, strict=True)]
    norm = sum(float((g**2).sum()) for g in kept) ** 0.5
    original = [weight.detach().clone() for weight in weights]
    before = [[float(loss_of(x[i : i + 1], y[i : i + 1]).detach()) for i in range(len(x))] for x, y in batches]
    with torch.no_grad():
        for weight, gradient in zip(weights, kept, strict=True):
            weight += 0.05 * gradient / norm
    slope, curvature = [0.0] * len(weights), [0.0] * len(weights)
    for (x, y), low in zip(batches, before, strict=True):
        rises = [float(loss_of(x[i : i + 1], y[i : i + 1]).detach()) - low[i] for i in range(len(x))]
        chosen = sorted(range(len(x)), key=lambda i: -rises[i])[: round(0.5 * len(x))]  # noqa: B023
        single = [torch.autograd.grad(loss_of(x[i : i + 1], y[i : i + 1]), weights) for i in chosen]
        for index in range(len(weights)):
            batch = sum(gradient[index] for gradient in single) / len(chosen)
            slope[index] = slope[index] + batch / len(batches)
            curvature[index] = curvature[index] + len(chosen) * batch**2 / len(batches)
    with torch.no_grad():
        for weight, values in zip(weights, original, strict=True):
            weight.copy_(values)
    return [(s * w).abs() + 0.5 * c * w**2 for s, c, w in zip(slope, curvature, original, strict=True)]


@pytest.fixture
def setting():
    torch.manual_seed(3)
    model = mlp((5, 7, 6), 3).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    batches = [(torch.randn(8, 5).double(), torch.randint(0, 3, (8,))) for _ in range(3)]
    return model, trace(mlp((5, 7, 6), 3), torch.zeros(1, 5)), batches


def test_saliency_of_weights_and_units_by_the_definition(setting):
    model, graph, batches = setting
    names = [f"{layer.name}.weight" for layer in graph.layers]
    expected = dict(zip(names, written_out(model, names, batches), strict=True))
    found = sdp.weight_scores(model, graph, batches, functional.cross_entropy)
    for name, values in found.items():
        torch.testing.assert_close(torch.from_numpy(values), expected[f"{name}.weight"], rtol=1e-6, atol=1e-12)
    producers = [name for name in names if not name.startswith(graph.head)]
    expected = dict(zip(producers, written_out(model, producers, batches), strict=True))
    for group, values in sdp.score(model, graph, batches, functional.cross_entropy).items():
        torch.testing.assert_close(torch.from_numpy(values), expected[f"{group}.weight"].sum(1), rtol=1e-6, atol=1e-12)
