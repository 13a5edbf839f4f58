"""The 1-d convolutional network."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.window_cnn import window_cnn


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = window_cnn(channels=3, widths=(4, 6), classes=5).eval()
    x = y = torch.randn(2, 3, 33)
    for index in (0, 3):
        y = F.relu(F.conv1d(y, model.features[index].weight, stride=2, padding=2) / (1 + 1e-5) ** 0.5)
    assert y.shape == (2, 6, 9)
    torch.testing.assert_close(model(x), y.mean(dim=2) @ model.head.weight.T + model.head.bias, rtol=1e-4, atol=1e-6)


def test_weights_at_the_defaults():
    assert [p.numel() for p in window_cnn().parameters() if p.dim() > 1] == [1440, 10_240, 20_480, 384]


@pytest.mark.parametrize(
    ("settings", "message"), [({"channels": 0}, "channels=0"), ({"widths": (4, 0)}, r"widths=\[4, 0\]"), ({"widths": ()}, "names no convolution")]
)
def test_wrong_settings(settings, message):
    with pytest.raises(ModelError, match=message):
        window_cnn(**settings)
