"""Centroid fine-tuning: codes stay, entries move by the sum of their members' gradients, and what is left are integers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.parts.centroids import attach_centroids_, round_centroids_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_


def wrap(rule, seed=0, *, bit_width=3, max_code=127, shape=(6, 9)):
    """One wrapped linear layer with a random frozen view and mask, codebook fitted."""
    random = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    model[0].weight.data.copy_(torch.from_numpy(random.normal(0, 0.3, shape).astype(np.float32)))
    present = np.ones(shape, bool) if rule == "replace" else random.random(shape) < 0.4
    q = np.where(present, random.integers(-50, 51, shape), 0).astype(np.float32)
    scale = torch.from_numpy(random.uniform(0.002, 0.02, shape[0]).astype(np.float16).astype(np.float32))
    wrapper = SubnetWeight(torch.from_numpy(q), torch.from_numpy(present), scale, rule=rule, density=0.5, bit_width=bit_width, max_code=max_code)
    wrapper.mask.copy_(torch.from_numpy(random.random(shape) < 0.6))
    attach_(model[0], wrapper)
    _, wrapper, latent = next(wrapped(model))
    wrapper.fix_scale_(latent)
    wrapper.fit_codebook_(latent)
    return model, wrapper, latent


@pytest.mark.parametrize("rule", ["select", "replace"])
def test_nothing_changes_before_a_step_and_all_comes_back(rule):
    model, wrapper, latent = wrap(rule)
    before, codes = model[0].weight.detach().clone(), wrapper.finish(latent)
    attach_centroids_(model)
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=1e-6, atol=0)
    round_centroids_(model)
    assert torch.equal(model[0].weight, before)
    after = wrapper.finish(next(wrapped(model))[2])
    np.testing.assert_array_equal(after.codebook[after.codes], codes.codebook[codes.codes])


@pytest.mark.parametrize("rule", ["select", "replace"])
def test_the_gradient_of_an_entry_is_the_sum_over_its_members(rule):
    model, wrapper, latent = wrap(rule)
    codes = wrapper.finish(latent)
    (position,) = attach_centroids_(model)
    random = np.random.default_rng(1)
    slope = random.normal(size=codes.states.shape)
    (model[0].weight * torch.from_numpy(slope).float()).sum().backward()
    own = codes.states == 2
    factor = np.broadcast_to(codes.scale[:, None], own.shape)[own].astype(np.float64)
    for k in range(8):
        members = codes.codes == k
        gradient, length = (slope[own][members] * factor[members]).sum(), np.sqrt(np.square(factor[members]).sum()) or 1.0
        assert float(position.grad[k]) == pytest.approx(gradient / length, rel=1e-4, abs=1e-6)
    assert latent.grad is None or not latent.grad[torch.from_numpy(own)].any()


def test_a_step_moves_the_members_by_its_own_length():
    model, _, _ = wrap("select")
    before = model[0].weight.detach().clone()
    (position,) = attach_centroids_(model)
    members = torch.bincount(next(wrapped(model))[0] and model[0].parametrizations["weight"][1].codes[model[0].parametrizations["weight"][1].own])
    entry = int(members.argmax())
    position.data[entry] += 0.25
    moved = model[0].weight.detach() - before
    assert float(moved.norm()) == pytest.approx(0.25, rel=1e-4)
    assert int((moved.abs() > 1e-6).sum()) == int(members[entry]) > 1


@pytest.mark.parametrize("rule", ["select", "replace"])
def test_after_training_codes_are_the_same_and_entries_are_integers(rule):
    model, wrapper, latent = wrap(rule, bit_width=2)
    first = wrapper.finish(latent)
    others = model[0].weight.detach().clone()
    x = torch.randn(64, 9, generator=torch.Generator().manual_seed(2))
    y = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))
    positions = attach_centroids_(model)
    optimizer = torch.optim.SGD(positions, lr=0.2, momentum=0.9)
    start = float((model(x) - y).square().mean().detach())
    for _ in range(60):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    learned = float((model(x) - y).square().mean().detach())
    assert learned < start - 0.01
    round_centroids_(model)
    rounded = float((model(x) - y).square().mean().detach())
    assert rounded == pytest.approx(learned, abs=0.01)
    codes = wrapper.finish(next(wrapped(model))[2])
    np.testing.assert_array_equal(codes.states, first.states)
    assert codes.codebook.dtype == np.int8 and (np.diff(codes.codebook.astype(int)) >= 0).all() and codes.codebook.shape == (4,)
    # slots that shared an entry still share one
    for k in range(4):
        assert len(np.unique(codes.codebook[codes.codes[first.codes == k]])) <= 1
    own = torch.from_numpy(codes.states == 2)
    assert torch.equal(model[0].weight[~own], others[~own])
    assert not torch.equal(model[0].weight[own], others[own])
    q = codes.codebook[codes.codes].astype(np.float32)
    np.testing.assert_array_equal(model[0].weight.detach()[own].numpy(), (q * np.broadcast_to(codes.scale[:, None], own.shape)[own.numpy()]))


def test_entries_stay_within_the_largest_code_and_may_cross():
    model, wrapper, latent = wrap("select", bit_width=2, max_code=60)
    (position,) = attach_centroids_(model)
    length = model[0].parametrizations["weight"][1].length
    position.data.copy_(torch.tensor([500.0, 7.4, 7.3, -500.0]) * length)
    round_centroids_(model)
    assert wrapper.codebook.tolist() == [-60.0, 7.0, 60.0, 60.0]
    codes = wrapper.finish(next(wrapped(model))[2])
    assert set(codes.codebook[codes.codes].tolist()) == {-60, 7, 60}


def test_a_layer_without_own_slots_has_nothing_to_tune():
    model, wrapper, latent = wrap("replace")
    wrapper.mask.fill_(False)
    wrapper.fit_codebook_(latent)
    before = model[0].weight.detach().clone()
    assert attach_centroids_(model) == []
    round_centroids_(model)
    assert torch.equal(model[0].weight, before)


def test_attached_centroids_survive_a_copy():
    model, _, _ = wrap("select")
    attach_centroids_(model)
    again = copy.deepcopy(model)
    round_centroids_(again)
    round_centroids_(model)
    assert torch.equal(again[0].weight, model[0].weight)
