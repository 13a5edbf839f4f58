"""The multi-layer perceptron."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.mlp import mlp


def test_size_and_shape():
    model = mlp(widths=(64, 256, 256), classes=7)
    assert sum(layer.weight.numel() for layer in model.hidden if isinstance(layer, torch.nn.Linear)) == 64 * 256 + 256 * 256
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 7)


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = mlp(widths=(6, 5), classes=2).eval()
    x = torch.randn(4, 2, 3)
    hidden = F.relu(F.batch_norm(x.flatten(1) @ model.hidden[0].weight.T, torch.zeros(5), torch.ones(5)))
    torch.testing.assert_close(model(x), hidden @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(("widths", "classes", "value"), [((64,), 10, r"\[64\]"), ((64, 0), 10, r"\[64, 0\]"), ((64, 8), 0, r"\[64, 8\] and 0")])
def test_wrong_settings(widths, classes, value):
    with pytest.raises(ModelError, match=f"got {value}"):
        mlp(widths, classes)
