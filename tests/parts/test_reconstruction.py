import copy

import numpy as np
import pytest
import torch
from coded_net import draw_norms_, two_convolutions
from torch import nn

from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.parts.reconstruction import reconstruct_


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return draw_norms_(nn.Sequential(*two_convolutions(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)), gains=(0.5, 1.5))


def pruned(model: nn.Module, kept: list[int]):
    graph = trace(model, torch.zeros(1, 2, 6, 6))
    mask = np.zeros(8, bool)
    mask[kept] = True
    return shrink(model, graph, {"0": mask})


INPUTS = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def test_a_duplicate_channel_is_mended_exactly():
    model = network()
    with torch.no_grad():  # channel 7 repeats channel 0, so that removing it loses nothing that the others cannot give
        model[0].weight[7] = model[0].weight[0]
        for values in (model[1].weight, model[1].bias, model[1].running_mean, model[1].running_var):
            values[7] = values[0]
    small = pruned(model, list(range(7)))
    with torch.no_grad():
        wanted, before = model(INPUTS), small.model(INPUTS)
        reconstruct_(small.model, model, small.slots, INPUTS, ridge=1e-9, free=frozenset({"3"}))
        after = small.model(INPUTS)
    assert (before - wanted).abs().max() > 1e-2
    assert (after - wanted).abs().max() < 1e-4
    expected = model[3].weight[:, 0] + model[3].weight[:, 7]
    assert torch.allclose(small.model[3].weight[:, 0], expected, atol=1e-4)


def a_repeated_unit_(model: nn.Module) -> None:
    """Unit 7 of layer `0` repeats unit 0, so that removing it loses nothing that the others cannot give."""
    with torch.no_grad():
        model[0].weight[7], model[0].bias[7] = model[0].weight[0], model[0].bias[0]


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_convolution_of_any_padding_is_mended(mode: str):
    torch.manual_seed(4)
    second = nn.Conv2d(8, 6, 3, padding="same", padding_mode=mode)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    a_repeated_unit_(model)
    small = pruned(model, list(range(7)))
    reconstruct_(small.model, model, small.slots, INPUTS, ridge=1e-9, free=frozenset({"2"}))
    assert torch.allclose(small.model(INPUTS), model(INPUTS), atol=1e-4)


def test_a_linear_layer_over_positions_is_mended():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    a_repeated_unit_(model)
    sequences = torch.randn(64, 4, 5, generator=torch.Generator().manual_seed(1))
    kept = np.ones(8, bool)
    kept[7] = False
    small = shrink(model, trace(model, sequences[:1]), {"0": kept})
    reconstruct_(small.model, model, small.slots, sequences, ridge=1e-9, free=frozenset({"2"}))
    assert torch.allclose(small.model(sequences), model(sequences), atol=1e-4)


def test_norms_keep_mean_and_variance_of_every_channel_where_weights_may_not_change():
    model = network(2)
    small = pruned(model, [0, 1, 2, 4, 6])
    weight = small.model[3].weight.detach().clone()
    reconstruct_(small.model, model, small.slots, INPUTS, ridge=1e-3, free=frozenset())
    assert torch.equal(small.model[3].weight, weight)
    with torch.no_grad():
        wanted, found = model[:5](INPUTS), small.model[:5](INPUTS)
    assert torch.allclose(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(found.var((0, 2, 3)), wanted.var((0, 2, 3)), rtol=1e-3)


def test_the_whole_network_is_left_as_it_is_and_a_strong_ridge_keeps_the_old_weights():
    model = network(3)
    state = copy.deepcopy(model.state_dict())
    small = pruned(model, [1, 3, 5, 7])
    weight = small.model[3].weight.detach().clone()
    reconstruct_(small.model, model, small.slots, INPUTS, ridge=1e9, free=frozenset({"3"}))
    assert torch.allclose(small.model[3].weight, weight, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *small.model.modules()))
