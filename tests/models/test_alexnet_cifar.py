"""The AlexNet-like network for CIFAR."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.alexnet_cifar import alexnet_cifar


def test_weights_by_layer():
    model = alexnet_cifar(classes=100)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    assert list(sizes.values()) == [3072, 73_728, 131_072, 524_288, 262_144, 51_200]
    assert sum(sizes.values()) - sizes["head.weight"] == 994_304


def test_it_is_the_described_arithmetic():
    torch.manual_seed(0)
    model = alexnet_cifar(classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    y = x
    for block in model.features:
        width = block[0].out_channels
        y = F.max_pool2d(F.relu(F.batch_norm(F.conv2d(y, block[0].weight), torch.zeros(width), torch.ones(width))), 2)
    assert y.shape == (2, 256, 2, 2)
    y = y.flatten(1)
    for block in model.hidden:
        y = F.relu(F.batch_norm(y @ block[0].weight.T, torch.zeros(512), torch.ones(512)))
    torch.testing.assert_close(model(x), y @ model.head.weight.T + model.head.bias, rtol=1e-4, atol=1e-5)


def test_wrong_settings():
    with pytest.raises(ModelError, match="got 0"):
        alexnet_cifar(classes=0)
