"""The AlexNet-like network for CIFAR."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.alexnet_cifar import alexnet_cifar


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_weights_by_layer(stem_stride):
    model = alexnet_cifar(classes=100, stem_stride=stem_stride)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    assert list(sizes.values()) == [3072, 73_728, 131_072, 524_288, 262_144, 51_200]
    assert sum(sizes.values()) - sizes["head.weight"] == 994_304


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_it_is_the_described_arithmetic(stem_stride):
    torch.manual_seed(0)
    model = alexnet_cifar(classes=7, stem_stride=stem_stride).eval()
    x = torch.randn(2, 3, 32, 32)
    y = x
    for number, block in enumerate(model.features):
        width, stem = block[0].out_channels, stem_stride == 2 and number == 0
        y = F.conv2d(y, block[0].weight, stride=2 if stem else 1, padding=1 if stem else 0)
        y = F.relu(F.batch_norm(y, torch.zeros(width), torch.ones(width)))
        y = y if stem_stride == 2 and number == 2 else F.max_pool2d(y, 2)
    assert y.shape == (2, 256, 2, 2)
    y = y.flatten(1)
    for block in model.hidden:
        y = F.relu(F.batch_norm(y @ block[0].weight.T, torch.zeros(512), torch.ones(512)))
    torch.testing.assert_close(model(x), y @ model.head.weight.T + model.head.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stem_stride", "millions"), [(1, 17.3), (2, 4.8)])
def test_multiply_accumulates(stem_stride, millions):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        alexnet_cifar(classes=10, stem_stride=stem_stride).eval()(torch.zeros(1, 3, 32, 32))
    assert round(counter.get_total_flops() / 2e6, 1) == millions


@pytest.mark.parametrize(("settings", "message"), [({"classes": 0}, "got 0"), ({"stem_stride": 3}, "got 3")])
def test_wrong_settings(settings, message):
    with pytest.raises(ModelError, match=message):
        alexnet_cifar(**settings)
