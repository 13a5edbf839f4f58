"""A trained checkpoint as integers: the function stays, errors stay within half a step."""

import copy

import learning_samples as samples
import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.errors import ModelError
from tsn_toolkit.filling import fill_
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.trunk import (
    channel_scale,
    checkpoint_trunk,
    code_head,
    code_layer,
    collect_biases,
    collect_norms,
    least_error_scale,
    seed_trunk,
    trunk_weights,
)


def net_with_negative_gains():
    """The trained net with two of three gains of every norm negated and shifted statistics."""
    model = copy.deepcopy(samples.trained_net())
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.weight[::3] *= -1
                module.weight[1::3] *= -1
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
    return model


def test_negative_gains_change_sign_with_their_weights_and_the_function_stays():
    model = net_with_negative_gains()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trunk = checkpoint_trunk(model, samples.graph(), bit_width=8, max_code=127, seed=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    assert all((norm.gain > 0).all() for norm in trunk.norms.values()) and len(trunk.norms) == 4
    restored = samples.factory()
    fill_(restored, trunk_weights(trunk), samples.graph().head)
    x = torch.randn(64, *samples.IMAGE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = model(x), restored.eval()(x)
    assert (expected - found).abs().max() <= 0.02 * expected.abs().max()
    # the signs really moved: output channel 0 of conv1 is negated, channel 2 is not
    for channel, sign in ((0, -1), (1, -1), (2, 1)):
        np.testing.assert_allclose(restored.conv1.weight[channel].detach(), sign * model.conv1.weight[channel].detach(), atol=0.01)
    assert (trunk.kind, trunk.seed) == ("checkpoint", 3)


def test_a_gain_that_cannot_be_folded_stays_negative():
    class Shared(nn.Module):
        """conv -> norm and conv -> addition, so that the norm cannot be folded."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            x = self.conv(x)
            return self.head((self.norm(x) + x).mean((2, 3)))

    model = Shared().eval()
    nn.init.constant_(model.norm.weight, -2.0)
    graph = samples.trace(model, torch.zeros(1, 1, 6, 6))
    assert graph.layer("conv").norm == ""
    trunk = checkpoint_trunk(model, graph, bit_width=8, max_code=127, seed=0)
    np.testing.assert_allclose(trunk.norms["norm"].gain, [-2.0] * 3, rtol=1e-3)
    assert set(trunk.biases) == {"conv"}


def random_weight(shape=(5, 4, 3, 3), seed=0):
    return np.random.default_rng(seed).normal(0, np.logspace(-2, 0, shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape).astype(np.float32)


@pytest.mark.parametrize("max_code", [63, 127])
def test_eight_bits_err_by_half_a_step_at_most(max_code):
    weight = random_weight()
    codes = code_layer(weight, bit_width=8, max_code=max_code)
    q = codes.codebook[codes.codes].reshape(weight.shape).astype(np.float64)
    scale = codes.scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert np.abs(q).max() == max_code and (codes.states == 2).all()
    assert (np.abs(weight - scale * q) <= scale * (0.5 + max_code * 2**-11)).all()
    np.testing.assert_allclose(codes.scale, np.abs(weight).reshape(5, -1).max(1) / max_code, rtol=2**-11)


@pytest.mark.parametrize("bit_width", [1, 3, 4])
def test_few_bits_take_the_nearest_entry_and_beat_an_even_grid(bit_width):
    weight = random_weight(seed=1)
    codes = code_layer(weight, bit_width=bit_width, max_code=127)
    values = (weight.astype(np.float64) / codes.scale.reshape(-1, 1, 1, 1)).clip(-127, 127).reshape(-1)
    entries = codes.codebook.astype(np.float64)
    assert len(entries) == 2**bit_width and (np.diff(entries) >= 0).all()
    errors = np.abs(values[:, None] - entries)
    np.testing.assert_allclose(np.abs(values - entries[codes.codes]), errors.min(1), atol=1e-9)
    grid = np.linspace(-127, 127, 2**bit_width)
    assert np.square(errors.min(1)).sum() < np.square(np.abs(values[:, None] - grid).min(1)).sum()


def test_a_dead_channel_gets_a_scale_that_can_be_stored():
    weight = random_weight((3, 2), seed=2)
    weight[1] = 0
    scale = channel_scale(weight, 127)
    assert (scale > 0).all() and (channel_scale(np.zeros((2, 2), np.float32), 127) > 0).all()
    assert (code_layer(weight, bit_width=8, max_code=127).codes.reshape(3, 2)[1] == 127).all()  # entry 127 of -127..127 is 0


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 3), lambda: nn.Linear(6, 3, bias=False), lambda: nn.Conv2d(6, 3, 1)])
def test_code_head(make):
    with samples.seeded(0):
        head = make()
    state = code_head(nn.ModuleDict({"head": head}), "head")
    weight = head.weight.detach().numpy().reshape(3, 6)
    assert state.codes.dtype == np.int8 and state.codes.shape == (3, 6) and (np.abs(state.codes.astype(int)).max(1) > 100).all()
    largest = np.abs(weight).max(1, keepdims=True)
    rounded = np.rint(weight * 127 / largest) * largest / 127
    assert np.square(weight - state.scale[:, None] * state.codes).sum() <= 1.05 * np.square(weight - rounded).sum()
    bias = np.zeros(3) if head.bias is None else head.bias.detach().numpy()
    np.testing.assert_allclose(state.bias, bias, rtol=2**-11, atol=2**-26)


@pytest.mark.parametrize("max_code", [1, 3, 7, 127])
def test_the_scale_with_the_least_error_beats_an_even_search(max_code):
    weight = np.random.default_rng(5).standard_t(4, (6, 200)).astype(np.float32)
    weight[2], weight[3] = 0, weight[3] * 0.01

    def error(row, scale):
        return np.square(row - scale * np.clip(np.rint(row / scale), -max_code, max_code)).sum()

    found = least_error_scale(weight, max_code)
    assert found.dtype == np.float32 and (found > 0).all()
    for row, scale in zip(weight.astype(np.float64), found.astype(np.float64), strict=True):
        grid = np.linspace(0.1, 1.05, 1000) * max(np.abs(row).max(), 1e-9) / max_code
        assert error(row, scale) <= 1.1 * min(error(row, step) for step in grid)
    largest = np.abs(weight[0]).max() / max_code
    assert found[0] < (0.8 if max_code < 8 else 1.001) * largest


@pytest.mark.parametrize("precision", ["half", "int8"])
@pytest.mark.parametrize("bit_width", [2, 3, 4, 8])
def test_a_head_of_few_bits(bit_width, precision):
    torch.manual_seed(0)
    head = nn.Linear(64, 5)
    state = code_head(nn.ModuleDict({"head": head}), "head", bit_width=bit_width, precision=precision)
    most = 2 ** (bit_width - 1) - 1
    assert np.abs(state.codes.astype(int)).max() == most
    for vector, precise in ((state.scale, least_error_scale(head.weight.detach().numpy(), most)), (state.bias, head.bias.detach().numpy())):
        np.testing.assert_array_equal(round_vector(vector, precision), vector)
        np.testing.assert_array_equal(round_vector(precise, precision), vector)
    # with the scale that is stored, every code is the nearest there is
    weight, scale = head.weight.detach().numpy().astype(np.float64), state.scale[:, None].astype(np.float64)
    assert (np.abs(weight - scale * state.codes) <= np.abs(weight[..., None] - scale[..., None] * np.arange(-most, most + 1)).min(-1) + 1e-12).all()


@pytest.mark.parametrize("precision", ["half", "int8"])
def test_vectors_are_collected_as_they_are_stored(precision):
    model = nn.Sequential(nn.Linear(4, 300), nn.LayerNorm(300))
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].bias.normal_()
    norm, bias = collect_norms(model, precision)["1"], collect_biases(model, "", precision)["0"]
    vectors = {"1.weight": norm.gain, "1.bias": norm.shift, "0.bias": bias}
    for name, vector in vectors.items():
        exact = model.get_parameter(name).detach().numpy()
        np.testing.assert_array_equal(round_vector(exact, precision), vector)
        assert len(np.unique(vector)) <= (255 if precision == "int8" else 300)
        assert not np.array_equal(vector, exact)


def test_norms_and_biases_that_are_collected():
    norms = nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False), nn.BatchNorm1d(4, affine=False)
    model = nn.Sequential(nn.Linear(4, 4), *norms, nn.Linear(4, 2))
    assert set(collect_norms(model)) == {"1", "3"}
    assert set(collect_biases(model, "4")) == {"0"}
    model[3] = nn.BatchNorm1d(4, track_running_stats=False)
    with pytest.raises(ModelError, match="norm `3` keeps no running statistics"):
        collect_norms(model)


def test_seed_trunk_holds_nothing_but_the_seed():
    trunk = seed_trunk(42)
    assert (trunk.kind, trunk.seed, trunk.layers, trunk.norms, trunk.biases, trunk.head) == ("seed", 42, {}, {}, {}, None)
