"""gRDA against its formula written out, and against SGD where it prunes nothing."""

import numpy as np
import pytest
import torch

from tsn_toolkit.parts.grda import GRDA


def run(optimizer, weight, gradients, rates=None):
    for number, gradient in enumerate(gradients):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[number]
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def start():
    generator = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(30, generator=generator)), torch.randn(12, 30, generator=generator)


def test_without_pruning_it_is_sgd():
    weight, gradients = start()
    plain, _ = start()
    rates = [0.1] * 6 + [0.02] * 6
    found = run(GRDA([weight], c=0.0), weight, gradients, rates)
    torch.testing.assert_close(found, run(torch.optim.SGD([plain], lr=0.1), plain, gradients, rates), rtol=1e-5, atol=1e-6)


def test_the_formula_at_a_constant_rate():
    weight, gradients = start()
    first = weight.detach().double().numpy().copy()
    rate, c, mu = 0.1, 0.3, 0.6
    found = run(GRDA([weight], rate, c=c, mu=mu), weight, gradients).numpy()
    accumulator = first - rate * gradients.double().numpy().sum(0)
    threshold = c * rate ** (mu + 0.5) * 12**mu
    np.testing.assert_allclose(found, np.sign(accumulator) * np.maximum(np.abs(accumulator) - threshold, 0), atol=1e-5)
    assert 0 < (found == 0).mean() < 1


def test_a_changed_rate_adds_differences():
    weight = torch.nn.Parameter(torch.tensor([5.0]))
    run(optimizer := GRDA([weight], c=0.5, mu=0.6), weight, torch.zeros(2, 1), [0.1, 0.4])
    assert optimizer.state[weight]["threshold"] == pytest.approx(0.5 * (0.1**1.1 + 0.4**1.1 * (2**0.6 - 1)))
    assert float(weight) == pytest.approx(5 - optimizer.state[weight]["threshold"])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="got c = -1"):
        GRDA([torch.nn.Parameter(torch.zeros(1))], c=-1)
