"""Roundings by hand, with the gradient of the identity."""

import torch

from tsn_toolkit.quantizers.straight_through import rounded_within, sign


def test_sign():
    values = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0], requires_grad=True)
    found = sign(values)
    assert found.tolist() == [-1.0, 1.0, 1.0, 1.0, 1.0]
    (found * torch.arange(5.0)).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_rounded_within():
    values = torch.tensor([-9.0, 0.4, 1.6, 2.5, 300.0], requires_grad=True)
    found = rounded_within(values, torch.tensor(1.0), torch.tensor([127.0, 127.0, 127.0, 127.0, 5.0]))
    assert found.tolist() == [1.0, 1.0, 2.0, 2.0, 5.0]
    (found * torch.arange(5.0)).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
