"""Which parameters of a module are free, and how they are written."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tsn_toolkit.free_parameters import bias_of, free_parameters, write_free_parameters_
from tsn_toolkit.parts.plane_weight import PlaneWeight
from tsn_toolkit.parts.trunk import collect_biases
from tsn_toolkit.parts.wrapping import attach_


class Root(nn.Module):
    """The user's own root mean square norm, whose bias is a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))


class Scaled(nn.Linear):
    """A layer of torch with a parameter of its own is that layer's affair."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.factor = nn.Parameter(torch.ones(4))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.bias = nn.Parameter(torch.zeros(2, 4))
        self.tokens = nn.ParameterList([torch.zeros(4), torch.zeros(4)])
        self.named = nn.ParameterDict({"a": torch.zeros(4)})
        self.words, self.norm, self.linear = nn.Embedding(5, 4), Root(), nn.Linear(4, 4)
        self.activation, self.attention, self.conv = nn.PReLU(), nn.MultiheadAttention(4, 2), nn.Conv1d(4, 4, 1)
        self.layer_norm, self.recurrent, self.scaled = nn.LayerNorm(4), nn.GRU(4, 4), Scaled()


def test_those_of_own_modules_and_embeddings_are_free() -> None:
    assert list(free_parameters(Model())) == ["token", "bias", "tokens.0", "tokens.1", "named.a", "words.weight", "norm.weight"]


def test_a_parameter_called_bias_of_several_dimensions_is_no_bias() -> None:
    """As in the global response norm of ConvNeXt V2, (1, 1, 1, channels)."""
    model = Model()
    biases = collect_biases(model, "linear")
    assert "" not in biases and biases["norm"].shape == (4,) and "linear" not in biases
    assert bias_of(model) is None and bias_of(model.norm) is model.norm.bias and bias_of(model.words) is None


def test_what_a_weight_is_computed_from_is_not() -> None:
    model = Model()
    parametrizations.weight_norm(model.linear)
    attach_(model.conv, PlaneWeight(torch.zeros(4, 4, 1), torch.ones(4), max_code=127))
    assert "token" in free_parameters(model) and not any("parametrizations" in name for name in free_parameters(model))


def test_a_tied_one_has_one_name() -> None:
    model = nn.Module()
    model.one = model.other = nn.Embedding(3, 2)
    assert list(free_parameters(model)) == ["one.weight"]


def test_written_in_place_and_by_shape() -> None:
    model = Model()
    before = model.token
    write_free_parameters_(model, {"token": np.arange(4, dtype=np.float32).reshape(1, 1, 4)})
    assert model.token is before and model.token.tolist() == [[[0, 1, 2, 3]]] and model.token.requires_grad
    with pytest.raises(RuntimeError):
        write_free_parameters_(model, {"token": np.zeros(5, np.float32)})
