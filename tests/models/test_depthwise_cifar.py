"""The network of depthwise separable convolutions."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.depthwise_cifar import depthwise_cifar


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = depthwise_cifar(width=4, classes=3).eval()
    weights = [p for p in model.parameters() if p.dim() > 1]
    strides, groups = [2, 1, 1, 2, 1, 1, 1, 2, 1], [1, 4, 1, 8, 1, 16, 1, 16, 1]
    x = y = torch.randn(2, 3, 32, 32) * 40
    for weight, stride, count in zip(weights[:-1], strides, groups, strict=True):
        y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2, groups=count) / (1 + 1e-5) ** 0.5
        y = y.clamp(0, 6)
    assert y.shape == (2, 32, 4, 4)
    expected = y.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-6)


def test_weights_at_the_defaults():
    sizes = [p.numel() for p in depthwise_cifar().parameters() if p.dim() > 1]
    assert sizes == [864, 288, 2048, 576, 8192, 1152, 16_384, 1152, 32_768, 2560]


@pytest.mark.parametrize("key", ["width", "classes"])
def test_wrong_settings(key):
    with pytest.raises(ModelError, match=f"`{key}`.*got 0"):
        depthwise_cifar(**{key: 0})
