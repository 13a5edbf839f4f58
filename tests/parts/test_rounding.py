"""Rounding of own codes inside a network: what is reported is what the layer puts out, and nothing but own codes changes."""

import copy
from functools import partial

import pytest
import torch
from coded_net import INPUTS, in_float, integers, network, output_error, wrap_

from tsn_toolkit.numerics.gptq import gptq_round
from tsn_toolkit.parts.learned_rounding import learned_round
from tsn_toolkit.parts.rounding import float_copy, float_weight, round_codes_
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.parts.wrapping import detach_

RULES = {"gptq": partial(gptq_round, damping=0.01), "learned": partial(learned_round, steps=40)}
OWN = {"0": 0.7, "3": 0.6, "7": 1.0}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inherited", [True, False])
def test_layers_put_out_less_error_and_only_own_codes_change(rule, inherited):
    model = wrap_(network(), OWN, inherited=inherited)
    before, nearest = integers(model), copy.deepcopy(model)
    wanted = {name: float_weight(wrapper, latent) for name, wrapper, latent in wrapped(model)}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    changes = {change.layer: change for change in round_codes_(model, INPUTS, RULES[rule])}
    assert list(changes) == ["0", "3", "7"]
    after = integers(model)
    for name, wrapper, latent in wrapped(model):
        own, change = wrapper.own_slots(), changes[name]
        assert torch.equal(after[name][~own], before[name][~own])
        assert torch.isin(after[name][own], wrapper.codebook).all()
        assert (change.changed, change.total) == (int((after[name] != before[name]).sum()), int(own.sum()))
        assert change.changed > 0 and change.error_after < change.error_before
        assert change.error_after == pytest.approx(output_error(model, name, wanted[name], INPUTS), rel=1e-4)
        codes = wrapper.finish(latent)  # what is stored is what was chosen
        assert torch.equal(torch.from_numpy(codes.codebook[codes.codes]).float(), after[name][own])
    assert changes["0"].error_before == pytest.approx(output_error(nearest, "0", wanted["0"], INPUTS), rel=1e-4)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items() if not key.endswith("original"))


def test_a_rule_that_makes_every_row_worse_changes_nothing_and_layers_without_codes_say_why():
    model = wrap_(network(), {"0": torch.zeros(4, 2, 3, 3, dtype=torch.bool), "3": 0.5})
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    changes = round_codes_(model, INPUTS, lambda values, own, gram, codebook: values * 0 + float(codebook[0]))
    assert [change.layer for change in changes] == ["0", "3"]
    assert "owns no codes" in changes[0].reason and changes[1].changed == 0 and not changes[1].reason
    assert changes[1].error_after == changes[1].error_before > 0
    assert all(
        torch.equal(model.state_dict()[key][~torch.isnan(tensor)], tensor[~torch.isnan(tensor)])
        for key, tensor in state.items()
        if not key.endswith("original")
    )


def test_a_grouped_layer_is_rounded_by_the_inputs_of_each_group():
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=4, bias=False))
    wrap_(model, {"0": 1.0}, inherited=False)
    mixed = [torch.cat([x, -2 * x], 1) for x in INPUTS]
    name, wrapper, latent = next(wrapped(model))
    wanted, before = float_weight(wrapper, latent), None
    before = output_error(model, "0", wanted, mixed)
    (change,) = round_codes_(model, mixed, RULES["learned"])
    after = output_error(model, "0", wanted, mixed)
    assert change.error_before == pytest.approx(before, rel=1e-4) and change.error_after == pytest.approx(after, rel=1e-4)
    assert after < before


def test_a_float_copy_stands_by_itself():
    model = wrap_(network(), OWN)
    x = torch.cat(INPUTS)
    expected, state = in_float(model, x), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    clone = float_copy(model)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())
    detach_(model)  # takes a property from the wrapped class, which a mere deep copy would share
    with torch.no_grad():
        assert torch.equal(clone(x), expected)
        assert type(clone[0]) is torch.nn.Conv2d and not torch.equal(model(x), expected)
