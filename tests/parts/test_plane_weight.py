"""A bit plane over a frozen view: forward and gradient by hand, and integers that are what the layer computed with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tsn_toolkit.parts.plane_weight import FRESH_GAIN, PlaneWeight, plane_wrapped
from tsn_toolkit.parts.slots import layer_integers
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.parts.wrapping import attach_, detach_


def make(max_code=127):
    """Channel 0 inherits 10, -120 at scale 0.5; channel 1 has nothing and no scale."""
    return PlaneWeight(torch.tensor([[10.0, -120.0], [0.0, 0.0]]), torch.tensor([0.5, 0.0]), max_code=max_code)


def test_before_the_plane_the_difference_adds_to_what_is_inherited():
    wrapper = make()
    weight = torch.tensor([[6.0, -61.0], [0.25, -0.75]])
    difference = wrapper.right_inverse(weight)
    assert difference.tolist() == [[1.0, -1.0], [0.25, -0.75]]
    difference.requires_grad_(True)
    found = wrapper(difference)
    assert torch.equal(found, weight)
    found.sum().backward()
    assert difference.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]] and wrapper.gain.grad is None


def test_with_the_plane_forward_and_gradient_by_hand():
    wrapper = make()
    difference = torch.tensor([[4.0, -6.0], [0.25, -0.75]], requires_grad=True)
    wrapper.start_plane_(difference)
    # mean |d| is 5, which is 10 steps of 0.5; 0.5 at a fresh channel becomes 32 steps of 1/64; -120 - 10 is clipped
    assert wrapper.gain.tolist() == [5.0, 0.5] and wrapper.scale.tolist() == [0.5, 0.5 / FRESH_GAIN]
    found = wrapper(difference)
    assert found.tolist() == [[10.0, -63.5], [0.5, -0.5]]
    (found * torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum().backward()
    np.testing.assert_allclose(difference.grad.numpy(), [[1, 2], [3, 5]], rtol=1e-6)
    np.testing.assert_allclose(wrapper.gain.grad.numpy(), [1 - 2, 3 - 5], rtol=1e-6)


def test_gains_are_whole_steps_from_one_on():
    wrapper = make()
    wrapper.start_plane_(torch.ones(2, 2))
    wrapper.gain.data.copy_(torch.tensor([0.1, 2.4 / FRESH_GAIN]))
    assert wrapper.finish(torch.ones(2, 2)).gain.tolist() == [1, 2]


def test_a_smaller_code_limits_the_gain_to_the_room_above_what_is_inherited():
    wrapper = PlaneWeight(torch.tensor([[10.0, -60.0], [0.0, 0.0], [63.0, 1.0]]), torch.tensor([0.5, 0.0, 0.5]), max_code=63)
    difference = torch.full((3, 2), 100.0)
    wrapper.start_plane_(difference)
    planes = wrapper.finish(difference)
    assert planes.gain.tolist() == [3, FRESH_GAIN, 0]
    wrapper.gain.data.fill_(1e6)
    assert np.abs(layer_integers(wrapper.finish(difference), wrapper.inherited_q.numpy().astype(np.int8))).max() == 63


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), max_code=st.sampled_from([20, 63, 127]), precision=st.sampled_from(["half", "int8"]))
def test_finish_gives_exactly_what_the_layer_computed_with(seed, max_code, precision):
    random = np.random.default_rng(seed)
    shape = (5, 4, 3, 3)
    q = random.integers(-max_code, max_code + 1, shape) * (random.random(shape) < 0.7)
    q[1] = 0
    scale = random.uniform(0.001, 0.01, 5).astype(np.float16).astype(np.float32)
    scale[1] = 0
    wrapper = PlaneWeight(torch.from_numpy(q.astype(np.float32)), torch.from_numpy(scale), max_code=max_code)
    difference = torch.from_numpy((random.normal(0, 0.1, shape) * (random.random(shape) < 0.9)).astype(np.float32))  # zeros count as +1
    wrapper.start_plane_(difference, precision)
    wrapper.gain.data.mul_(torch.from_numpy(random.uniform(-0.5, 3, 5).astype(np.float32)))
    planes = wrapper.finish(difference)
    integers = layer_integers(planes, q.astype(np.int8))
    np.testing.assert_array_equal(integers.astype(np.float32) * planes.scale.reshape(-1, 1, 1, 1), wrapper(difference).detach().numpy())
    np.testing.assert_array_equal(planes.signs, difference.numpy() >= 0)
    assert np.abs(integers.astype(int)).max() <= max_code and (planes.gain >= 0).all() and (planes.scale > 0).all()
    assert (planes.signs.dtype, planes.gain.dtype, planes.scale.dtype) == (np.bool_, np.int8, np.float32)


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_signs_and_gains_learn_while_what_is_inherited_stays(rate):
    torch.manual_seed(0)
    module, target = nn.Linear(64, 3, bias=False), torch.randn(3, 64)
    inherited = torch.randint(-100, 100, (3, 64)).float()
    wrapper = PlaneWeight(inherited, torch.full((3,), 2.0**-7), max_code=127)
    attach_(module, wrapper)
    ((name, found, latent),) = plane_wrapped(nn.Sequential(module))
    assert name == "0" and found is wrapper and not list(wrapped(nn.Sequential(module)))
    wrapper.start_plane_(latent)
    before = float((module.weight.detach() - target).square().mean())
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, weight_decay=0.01, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        (module.weight - target).square().mean().backward()
        optimizer.step()
    after = module.weight.detach().clone()
    assert float((after - target).square().mean()) < 0.8 * before
    assert torch.equal(wrapper.inherited_q, inherited) and set(dict(wrapper.named_parameters())) == {"gain"}
    steps = (after * 2**7 - inherited).abs()
    assert torch.equal(steps, steps.round()), "whole steps of q"
    detach_(module)
    assert torch.equal(module.weight, after)
