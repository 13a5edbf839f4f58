"""The small convolutional network."""

import pytest
import torch

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.small_cnn import small_cnn


def test_shape_and_size():
    model = small_cnn()
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert 20_000 <= sum(p.numel() for p in model.parameters()) <= 60_000
    assert small_cnn(width=4, classes=2, in_channels=3)(torch.zeros(1, 3, 12, 12)).shape == (1, 2)


def test_the_addition_is_there():
    model = small_cnn(width=4).eval()
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        model.bn3.weight.zero_()
        inner = torch.relu(model.bn2(model.conv2(torch.relu(model.bn1(model.conv1(x))))))
        expected = model.head(model.pool(torch.relu(model.bn4(model.conv4(inner)))).flatten(1))
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("key", ["width", "classes", "in_channels"])
def test_wrong_settings(key):
    with pytest.raises(ModelError, match=f"`{key}`.*got 0"):
        small_cnn(**{key: 0})
