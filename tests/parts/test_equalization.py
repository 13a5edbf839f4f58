"""Equalization keeps the float function, moves no inherited integer, and says where it may not be done."""

import pytest
import torch
from coded_net import INPUTS, in_float, integers, network, wrap_
from torch import nn

from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.parts.equalization import equalize_, layer_pairs
from tsn_toolkit.parts.subnet_weight import wrapped


def graph_of(model):
    return trace(model, torch.zeros(1, 2, 6, 6))


def uneven(**options):
    """A network whose second convolution reads channels of very different size."""
    model = network(**options)
    with torch.no_grad():
        model[3].weight.mul_(torch.tensor([0.05, 1.0, 9.0, 1.3]).view(1, -1, 1, 1))
    return model


def test_pairs_need_one_reader_and_functions_that_pass_a_factor_on():
    pairs = {pair.first: pair for pair in layer_pairs(graph_of(network()))}
    assert (pairs["0"].second, pairs["0"].norm) == ("3", "1")
    assert (pairs["3"].second, pairs["3"].norm) == ("7", "4")  # through ReLU and pooling
    assert "`flatten`" in pairs["7"].refusal
    residual = {pair.first: pair for pair in layer_pairs(trace(small_cnn(width=4, classes=6).eval(), torch.zeros(1, 1, 8, 8)))}
    assert residual["conv1"].second == "conv2"
    assert residual["conv2"].refusal == "its output is read 2 times"
    assert "`add`" in residual["conv3"].refusal
    bent = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(72, 2)).eval()
    assert "`sigmoid`" in layer_pairs(graph_of(bent))[0].refusal


@pytest.mark.parametrize("bias", [False, True])
def test_the_float_function_stays_and_own_codes_change(bias):
    model = uneven(bias=bias)
    graph = graph_of(model)
    wrap_(model, {"0": 0.5, "3": 1.0}, bit_width=3)
    x = torch.cat(INPUTS)
    before, first = in_float(model, x), integers(model)["0"]
    changes = {change.layer: change for change in equalize_(model, graph, INPUTS, max_code=127)}
    after = in_float(model, x)
    assert float((after - before).abs().max()) <= 1e-5 * float(before.abs().max())
    assert torch.equal(integers(model)["0"], first)  # whoever owns them
    assert changes["0 -> 3"].changed > 0 and changes["0 -> 3"].error_after < changes["0 -> 3"].error_before
    assert changes["3 -> 7"].reason == "`7` has no code of the task's own to change"
    assert "`flatten`" in changes["7"].reason


def test_ranges_meet_within_a_factor_of_two():
    model = uneven()
    graph = graph_of(model)
    wrap_(model, {"3": 1.0}, inherited=False)
    equalize_(model, graph, INPUTS, max_code=127)
    _, wrapper, latent = next(wrapped(model))
    gain = model[1].weight.detach() * torch.rsqrt(model[1].running_var + model[1].eps)
    first = model[0].weight.detach().flatten(1).abs().amax(1) * gain
    second = latent.detach().transpose(0, 1).flatten(1).abs().amax(1)
    ratio = first / second
    assert float(ratio.max()) <= 2.001 and float(ratio.min()) >= 0.499


def test_a_channel_that_inherited_weights_read_keeps_its_factor():
    model = uneven()
    graph = graph_of(model)
    own = torch.ones(6, 4, 3, 3, dtype=torch.bool)
    own[0, 2, 1, 1] = False  # one inherited weight reads channel 2
    wrap_(model, {"3": own}, bit_width=3)
    gain, x = model[1].weight.detach().clone(), torch.cat(INPUTS)
    before, old = in_float(model, x), integers(model)["3"]
    equalize_(model, graph, INPUTS, max_code=127)
    factor = gain / model[1].weight.detach()
    assert factor[2] == 1 and factor[0] != 1
    assert torch.equal(torch.log2(factor), torch.log2(factor).round())
    assert integers(model)["3"][~own] == old[~own]
    assert float((in_float(model, x) - before).abs().max()) <= 1e-5 * float(before.abs().max())


def test_without_a_norm_the_scale_takes_the_factor_and_the_parents_own_layer_is_refused():
    def chain():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 3)).eval()
        with torch.no_grad():
            model[2].weight.mul_(torch.tensor([0.05, 1.0, 9.0, 1.3]).view(1, -1, 1, 1))
        return model

    model = chain()
    graph = graph_of(model)
    wrap_(model, {"0": 0.3, "2": 1.0})
    x = torch.cat(INPUTS)
    before, first, scale = in_float(model, x), integers(model)["0"], next(wrapped(model))[1].scale.clone()
    equalize_(model, graph, INPUTS, max_code=127)
    assert float((in_float(model, x) - before).abs().max()) <= 1e-5 * float(before.abs().max())
    assert torch.equal(integers(model)["0"], first) and not torch.equal(next(wrapped(model))[1].scale, scale)
    shared = wrap_(chain(), {"2": 1.0})
    state = {key: tensor.clone() for key, tensor in shared.state_dict().items()}
    changes = {change.layer: change for change in equalize_(shared, graph, INPUTS, max_code=127)}
    assert changes["0 -> 2"].reason == "`0` is the parent's with its scales and has no norm"
    assert all(torch.equal(shared.state_dict()[key], tensor) for key, tensor in state.items())
