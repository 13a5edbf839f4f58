"""The gradient of the entropy against finite differences, and the halving against its definition."""

import pytest
import torch
from torch import nn

from tsn_toolkit.errors import ModelError
from tsn_toolkit.parts.task_inference import entropy_gradient, infer_task


def networks(count, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    models = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, classes)).eval() for _ in range(count)]
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.normal_(generator=generator)
    return models, torch.randn(10, 4, generator=generator)


def entropy_of_mixture(models, shares, x):
    """Written out for the net of `networks`, in float64."""

    def mixed(layer, name):
        return sum(share * getattr(model[layer], name).detach().double() for share, model in zip(shares, models, strict=True))

    hidden = torch.tanh(x.double() @ mixed(0, "weight").T + mixed(0, "bias"))
    p = (hidden @ mixed(2, "weight").T + mixed(2, "bias")).softmax(1)
    return float(-(p * p.log()).sum(1).mean())


def test_the_gradient_is_that_of_finite_differences():
    models, x = networks(3)
    for number, found in enumerate(entropy_gradient(models, x).tolist()):
        shares = [[1 / 3 + (step if index == number else 0) for index in range(3)] for step in (1e-5, -1e-5)]
        slope = (entropy_of_mixture(models, shares[0], x) - entropy_of_mixture(models, shares[1], x)) / 2e-5
        assert found == pytest.approx(slope, abs=1e-4)


def test_one_shot_takes_the_steepest_descent_and_halving_repeats_it():
    for seed in range(6):
        models, x = networks(5, seed)
        assert infer_task(models, x) == int(entropy_gradient(models, x).argmin())
        left = [0, 1, 2, 3, 4]
        while len(left) > 1:
            slopes = entropy_gradient([models[index] for index in left], x).tolist()
            ranked = sorted(zip(slopes, left, strict=True))
            left = sorted(index for _, index in ranked[: -(-len(left) // 2)])
        assert infer_task(models, x, "binary") == left[0]


def test_models_and_gradients_stay_as_they_were():
    models, x = networks(2)
    before = [parameter.detach().clone() for model in models for parameter in model.parameters()]
    with torch.no_grad():
        infer_task(models, x)
    after = [parameter for model in models for parameter in model.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


def test_tasks_with_other_numbers_of_classes_are_refused():
    (first,), x = networks(1)
    (second,), _ = networks(1, classes=4)
    with pytest.raises(ModelError, match=r"`2.weight` of task 1 has shape \(4, 6\), that of task 0 \(3, 6\)"):
        infer_task([first, second], x)
