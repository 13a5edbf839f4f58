"""The two-pass gradients against the same thing done slowly, and SAM as their special case."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.parts.pruning_candidates import PruningCandidates
from tsn_toolkit.parts.sharpness_step import sharpness_gradients


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    weights = {name: parameter for name, parameter in model.named_parameters() if name.endswith("weight")}
    return model, weights, torch.randn(10, 4), torch.randint(3, (10,))


def losses_of(model):
    def losses(x, y):
        logits = model(x)
        return functional.cross_entropy(logits, y, reduction="none"), logits

    return losses


def candidates_of(weights, fraction):
    """By |g w|, the least first."""
    return PruningCandidates(weights, fraction=fraction, saliency=lambda name, gradient, _: (gradient * weights[name].detach()).abs())


def slowly(model, weights, x, y, rho, fraction, count, sharp):
    """Gradients by name of the chosen examples, one example at a time, at the moved weights or at the weights; the model is put back."""
    first = torch.autograd.grad(functional.cross_entropy(model(x), y), list(weights.values()))
    moves = []
    for g, w in zip(first, weights.values(), strict=True):
        product = (g * w).abs().detach()
        border = product.flatten().sort().values[round(fraction * product.numel()) - 1]
        moves.append(torch.where(product <= border, g, 0.0))
    norm = sum(float(m.square().sum()) for m in moves) ** 0.5
    state = {name: value.clone() for name, value in model.state_dict().items()}
    low = [float(functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).detach()) for i in range(len(x))]
    with torch.no_grad():
        for weight, move in zip(weights.values(), moves, strict=True):
            weight += rho * move / norm
    rises = [float(functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).detach()) - low[i] for i in range(len(x))]
    chosen = sorted(range(len(x)), key=lambda i: -rises[i])[:count]
    if not sharp:
        model.load_state_dict(state)
    total = sum(functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in chosen) / count
    found = dict(zip(dict(model.named_parameters()), torch.autograd.grad(total, list(model.parameters())), strict=True))
    model.load_state_dict(state)
    return found


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize(("fraction", "examples", "count"), [(0.5, 0.4, 4), (1.0, 1.0, 10), (0.2, 1.0, 10), (0.5, 0.1, 2)])
def test_gradients_are_those_of_the_chosen_examples(setting, sharp, fraction, examples, count):
    """A tenth of ten examples would be one: two are taken at least."""
    model, weights, x, y = setting
    expected = slowly(model, weights, x, y, 0.3, fraction, count, sharp)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss, logits = sharpness_gradients(
        x, y, losses=losses_of(model), candidates=candidates_of(weights, fraction), rho=0.3, examples=examples, sharp=sharp
    )
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(parameter, before[name]), "weights must be as they were"
    assert loss == pytest.approx(float(functional.cross_entropy(model(x), y).detach()))
    assert torch.equal(logits, model(x))


def test_only_the_chosen_examples_take_the_last_pass(setting):
    model, weights, x, y = setting
    seen = []

    def losses(x, y):
        seen.append((len(x), torch.is_grad_enabled()))
        return losses_of(model)(x, y)

    sharpness_gradients(x, y, losses=losses, candidates=candidates_of(weights, 0.5), rho=0.3, examples=0.4)
    assert seen == [(10, True), (10, False), (4, True)]
    seen.clear()
    sharpness_gradients(x, y, losses=losses, candidates=candidates_of(weights, 0.5), rho=0.3, examples=1.0)
    assert seen == [(10, True), (10, True)], "nothing to choose"


def test_one_example_alone_is_a_batch(setting):
    model, weights, x, y = setting
    sharpness_gradients(x[:1], y[:1], losses=losses_of(model), candidates=candidates_of(weights, 0.5), rho=0.3, examples=0.5)
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_a_penalty_is_taken_at_the_weights_themselves(setting):
    model, weights, x, y = setting
    parts = {"losses": losses_of(model), "candidates": candidates_of(weights, 1.0), "rho": 0.3, "examples": 1.0}
    sharpness_gradients(x, y, **parts)
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sharpness_gradients(x, y, **parts, penalty=lambda: model[0].weight.square().sum())
    torch.testing.assert_close(model[0].weight.grad, plain["0.weight"] + 2 * model[0].weight.detach())
    assert torch.equal(model[2].weight.grad, plain["2.weight"])
