"""Wrappers on weights: found by their kind, absent from plain copies, gone without a trace."""

import pytest
import torch
from torch import nn

from tsn_toolkit.parts.wrapping import attach_, detach_, plain_copy, wrappers_of


class Doubled(nn.Module):
    def forward(self, latent):
        return 2 * latent

    def right_inverse(self, weight):
        return weight / 2


class Kept(nn.Module):
    def forward(self, latent):
        return latent


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Conv1d(1, 2, 2), nn.Linear(3, 2)))
    attach_(net[0], Doubled())
    attach_(net[2][0], Kept())
    attach_(net[2][1], Doubled())
    return net


def test_wrappers_are_found_by_kind_with_path_and_latent_tensor(model):
    found = list(wrappers_of(model, Doubled))
    assert [name for name, _, _ in found] == ["0", "2.1"] and all(type(wrapper) is Doubled for _, wrapper, _ in found)
    assert all(torch.equal(2 * latent, model.get_submodule(name).weight) and latent.is_leaf for name, _, latent in found)
    assert [name for name, _, _ in wrappers_of(model, Kept)] == ["2.0"]


def test_a_wrapped_weight_begins_as_it_was():
    layer = nn.Linear(3, 4)
    before = layer.weight.detach().clone()
    attach_(layer, Doubled())
    assert torch.equal(layer.weight, before)


def test_a_plain_copy_computes_the_same_and_shares_nothing(model):
    copy = plain_copy(model)
    assert not list(wrappers_of(copy, nn.Module)) and len(list(wrappers_of(model, nn.Module))) == 3
    assert type(copy[0]) is nn.Linear and isinstance(copy[0].weight, nn.Parameter)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy[0](x), model[0](x))
    before = model[0].weight.detach().clone()
    copy[0].weight.data.zero_()
    assert torch.equal(model[0].weight, before) and before.any()


def test_detaching_leaves_the_computed_weights(model):
    before = {name: model.get_submodule(name).weight.detach().clone() for name in ("0", "2.0", "2.1")}
    detach_(model)
    assert not list(wrappers_of(model, nn.Module))
    assert all(torch.equal(model.get_submodule(name).weight, weight) for name, weight in before.items())
    assert set(model.state_dict()) == {f"{name}.{key}" for name in before for key in ("weight", "bias")}
