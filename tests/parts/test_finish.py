"""A learned small module becomes integers: weights exactly scale * q, vectors exactly what the store can hold, everything back at its place."""

import learning_samples as samples
import numpy as np
import pytest
import torch

from tsn_toolkit.filling import read_norm
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.numerics.half import round_half
from tsn_toolkit.parts.finish import freeze_vectors_, scatter_all, to_integers_
from tsn_toolkit.parts.head_rounding import HeadRounding, wrap_head_
from tsn_toolkit.parts.slots import full_sizes
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_, wrappers_of

MASKS = {"conv1": np.array([True, False, True, True]), "conv4": np.array([True] * 5 + [False] * 3)}


@pytest.fixture
def small():
    """The trained net without four units; conv1 and conv2 wrapped over random frozen views, conv3 and conv4 left to be shared."""
    small = shrink(samples.trained_net(), samples.graph(), MASKS)
    random = np.random.default_rng(0)
    for name, rule in (("conv1", "replace"), ("conv2", "select")):
        module = small.model.get_submodule(name)
        shape = tuple(module.weight.shape)
        present = np.ones(shape, bool) if rule == "replace" else random.random(shape) < 0.4
        q = torch.from_numpy(np.where(present, random.integers(-127, 128, shape), 0).astype(np.float32))
        scale = torch.from_numpy(random.uniform(0.002, 0.01, shape[0]).astype(np.float16).astype(np.float32))
        wrapper = SubnetWeight(q, torch.from_numpy(present), scale, rule=rule, density=0.5, bit_width=3, max_code=127)
        wrapper.mask.copy_(torch.from_numpy(random.random(shape) < 0.5))
        attach_(module, wrapper)
    for _, wrapper, latent in wrapped(small.model):
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    return small


def shared_codes(model):
    random = np.random.default_rng(1)
    codes = {}
    for name in ("conv3", "conv4"):
        shape = tuple(model.get_submodule(name).weight.shape)
        codes[name] = (random.integers(-127, 128, shape).astype(np.int8), random.uniform(0.001, 0.01, shape[0]).astype(np.float32))
    return codes


def test_weights_are_what_learning_computed_with_and_exactly_scale_times_q(small):
    model = small.model
    computed = {name: model.get_submodule(name).weight.detach().clone() for name in ("conv1", "conv2")}
    shared = shared_codes(model)
    integers = to_integers_(model, samples.graph(), shared)
    assert set(integers.owned) == {"conv1", "conv2"} and set(integers.q) == {"conv1", "conv2", "conv3", "conv4", "head"}
    for name, q in integers.q.items():
        weight = integers.scale[name].reshape(-1, *[1] * (q.ndim - 1)) * q.astype(np.float32)
        np.testing.assert_array_equal(model.get_submodule(name).weight.detach().numpy(), weight)
        assert q.dtype == np.int8
    for name, weight in computed.items():
        assert torch.equal(model.get_submodule(name).weight, weight), f"{name} computes with other weights than it was trained with"
    np.testing.assert_array_equal(integers.q["conv3"], shared["conv3"][0])
    np.testing.assert_array_equal(model.head.bias.detach().numpy(), integers.head.bias)
    assert not list(wrapped(model))


def test_a_head_is_stored_with_the_scales_that_it_was_trained_with(small):
    wrap_head_(small.model, "head", bit_width=3, max_code=127, precision="half")
    ((_, rounding, latent),) = wrappers_of(small.model, HeadRounding)
    with torch.no_grad():
        latent.mul_(0.4)  # since its scales were fitted
    computed, scale = small.model.head.weight.detach().clone(), rounding.scale.flatten().numpy().copy()
    integers = to_integers_(small.model, samples.graph(), shared_codes(small.model), head_bits=3)
    assert torch.equal(small.model.head.weight, computed)
    np.testing.assert_array_equal(integers.head.scale, scale)


def test_vectors_are_storable_and_the_module_holds_them(small):
    to_integers_(small.model, samples.graph(), shared_codes(small.model))
    norms, biases = freeze_vectors_(small.model, "head")
    assert set(norms) == {"bn1", "bn2", "bn3", "bn4"} and biases == {}
    for name, norm in norms.items():
        np.testing.assert_array_equal(round_half(norm.gain), norm.gain)
        np.testing.assert_array_equal(round_half(norm.shift), norm.shift)
        held = read_norm(small.model.get_submodule(name), name)
        np.testing.assert_allclose(held.gain, norm.gain, rtol=1e-6)
        np.testing.assert_allclose(held.shift, norm.shift, rtol=1e-6)
    again, _ = freeze_vectors_(small.model, "head")
    assert all(np.array_equal(again[name].gain, norms[name].gain) and np.array_equal(again[name].shift, norms[name].shift) for name in norms)


def test_scattered_to_full_shape_with_zeros_at_dead_units(small):
    integers = to_integers_(small.model, samples.graph(), shared_codes(small.model))
    norms, biases = freeze_vectors_(small.model, "head")
    full = full_sizes(samples.factory().state_dict())
    layers, full_norms, _, head = scatter_all(integers, norms, {**biases, "head": np.ones(6, np.float32)}, small.slots, full, "head")
    assert {name: layer.states.shape for name, layer in layers.items()} == {"conv1": (4, 1, 3, 3), "conv2": (8, 4, 3, 3)}
    assert not layers["conv1"].states[1].any() and not layers["conv2"].states[:, 1].any() and layers["conv1"].scale[1] == 0
    kept = MASKS["conv4"]
    np.testing.assert_array_equal(full_norms["bn4"].gain[kept], norms["bn4"].gain)
    assert not full_norms["bn4"].gain[~kept].any() and not full_norms["bn4"].shift[~kept].any()
    assert head.codes.shape == (6, 32)
    np.testing.assert_array_equal(head.codes[:, np.repeat(kept, 4)], integers.head.codes)
    assert not head.codes[:, np.repeat(~kept, 4)].any()
