"""The CIFAR ResNet: layout, arithmetic, and the public checkpoint."""

import pytest
import torch
import torch.nn.functional as F

from tsn_toolkit.errors import ModelError
from tsn_toolkit.models.resnet_cifar import resnet


def test_block_is_the_described_arithmetic():
    torch.manual_seed(0)
    block = resnet(8).layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    inner = F.relu(F.batch_norm(F.conv2d(x, block.conv1.weight, stride=2, padding=1), torch.zeros(32), torch.ones(32)))
    expected = F.batch_norm(F.conv2d(inner, block.conv2.weight, padding=1), torch.zeros(32), torch.ones(32))
    expected = expected + F.batch_norm(F.conv2d(x, block.shortcut[0].weight, stride=2), torch.zeros(32), torch.ones(32))
    assert torch.allclose(block(x), expected, atol=1e-5)
    assert block(x).min().item() < 0  # no ReLU after the addition


def test_depth_and_classes():
    model = resnet(depth=20, classes=7)
    assert [len(layer) for layer in (model.layer1, model.layer2, model.layer3)] == [3, 3, 3]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("depth", "classes", "value"), [(21, 10, "21"), (2, 10, "2"), (20, 0, "0")])
def test_wrong_settings(depth, classes, value):
    with pytest.raises(ModelError, match=f"got {value}"):
        resnet(depth, classes)


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_checkpoint_loads_with_strict_names(tsn_data, depth):
    file = tsn_data / "checkpoints" / f"distiller_resnet{depth}_cifar100.pth"
    if not file.is_file():
        pytest.skip(f"{file.name} is not in TSN_DATA")
    state = torch.load(file, weights_only=True)
    model = resnet(depth)
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.linear.weight, state["linear.weight"])
