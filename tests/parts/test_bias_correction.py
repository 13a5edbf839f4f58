import copy

import pytest
import torch
from coded_net import INPUTS, in_float, network
from torch import nn

from tsn_toolkit.parts.bias_correction import correct_biases_

NORMS = {"0": "1", "3": "4"}


def coded(model, seed=1):
    """The same network with a disturbance on every weight, as coding makes one."""
    clone = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in clone.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.add_(0.1 * torch.randn(module.weight.shape, generator=generator))
    return clone


def test_one_layer_by_hand():
    reference, model = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        reference[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model[0].weight.copy_(torch.tensor([[1.5, 0.0], [0.0, 1.0]]))
        for net in (reference, model):
            net[0].bias.fill_(0.25)
    x = [torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[5.0, 1.0]])]  # mean of the first input is 3: the first output is 1.5 too large
    (change,) = correct_biases_(model, reference, {"0": ""}, x)
    assert model[0].bias.tolist() == [-1.25, 0.25]
    assert (change.layer, change.changed, change.total) == ("0", 1, 2)
    wanted = [1.25, 2.25, 3.25, 0.25, 5.25, 1.25]
    power = sum(value**2 for value in wanted)
    assert change.error_before == pytest.approx(((0.5**2 + 1.5**2 + 2.5**2) / power) ** 0.5)
    assert change.error_after == pytest.approx(((1**2 + 0 + 1**2) / power) ** 0.5)


def test_every_channel_behind_norms_and_biases_has_the_mean_of_the_float_network():
    reference = network()
    model = coded(reference)
    weights = {name: value.clone() for name, value in model.state_dict().items() if not name.endswith("bias")}
    changes = correct_biases_(model, reference, NORMS, INPUTS)
    assert [change.layer for change in changes] == ["0", "3", "7", "10"]
    assert all(change.changed == change.total and change.error_after < change.error_before for change in changes)
    x = torch.cat(INPUTS)
    with torch.no_grad():
        for depth in (2, 5, 8):  # up to each norm, and to the convolution with a bias
            torch.testing.assert_close(model[:depth](x).mean((0, 2, 3)), reference[:depth](x).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(x).mean(0), reference(x).mean(0), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_a_layer_without_a_place_says_so_and_a_norm_without_vectors_moves_its_mean():
    reference = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)).eval()
    model = coded(reference)
    changes = correct_biases_(model, reference, {"0": "", "2": "3"}, INPUTS)
    assert changes[0].reason == "has neither a norm behind it nor a bias"
    x = torch.cat(INPUTS)
    with torch.no_grad():
        torch.testing.assert_close(model(x).mean((0, 2, 3)), reference(x).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert changes[1].changed == 4
    torch.testing.assert_close(in_float(model, x), model(x).detach())
