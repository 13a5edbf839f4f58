"""Own slots go by how little they do, batch by batch, and a batch that costs too much comes back to the bit."""

import coded_net
import numpy as np
import pytest
import torch

from tsn_toolkit.parts.post_pruning import coded_bytes, post_prune_
from tsn_toolkit.parts.subnet_weight import wrapped


def masks(model):
    return {name: wrapper.mask.clone() for name, wrapper, _ in wrapped(model)}


@pytest.mark.parametrize("inherited", [False, True])
def test_the_slots_that_move_weights_least_go_first(inherited):
    """One layer, one batch: a loss that falls once and then rises stops it after the first."""
    model = coded_net.wrap_(coded_net.network(), {"3": 0.5}, bit_width=6, inherited=inherited)
    (_, wrapper, latent) = next(wrapped(model))
    own, weight = wrapper.own_slots().clone(), wrapper(latent).detach().clone()
    base = wrapper.inherited_q * wrapper.scale.view(-1, 1, 1, 1) * own if inherited else torch.zeros_like(weight)
    effect = (weight - base).abs()[own]
    answers = iter([np.zeros(4), np.zeros(4), np.ones(4)])
    (change,) = post_prune_(model, lambda: next(answers), share=0.25, tolerance=0.1)
    gone = own & ~wrapper.mask
    assert change.changed == int(gone.sum()) == int(0.25 * int(own.sum())) and change.total == int(own.sum())
    limit = effect.sort().values[change.changed - 1]
    assert (weight - base).abs()[gone].max() <= limit and (weight - base).abs()[wrapper.mask].min() >= limit
    after = wrapper(latent).detach()
    assert torch.equal(after[~gone], weight[~gone]) and torch.equal(after[gone], base[gone] if inherited else torch.zeros_like(after[gone]))


def test_a_loss_that_rises_leaves_every_mask_and_one_that_does_not_leaves_one_slot_per_layer():
    model = coded_net.wrap_(coded_net.network(), {"0": 0.5, "3": 0.5, "7": 0.5}, inherited=False)
    before, calls = masks(model), []

    def rising():
        calls.append(0)
        return np.full(5, float(len(calls)))

    assert [change.changed for change in post_prune_(model, rising, share=0.5, tolerance=0.1)] == [0, 0, 0]
    assert len(calls) == 4, "the reference, and one trial per layer"
    assert all(torch.equal(mask, before[name]) for name, mask in masks(model).items())
    size = coded_bytes(model)
    changes = post_prune_(model, lambda: np.zeros(5), share=0.5, tolerance=0.0)
    assert [change.total - change.changed for change in changes] == [1, 1, 1] and coded_bytes(model) < size


def test_layers_take_turns_by_the_energy_that_goes():
    """The layer with one dominant weight loses its small ones before the even layer loses any."""
    model = coded_net.network()
    with torch.no_grad():
        model[0].weight.copy_(torch.full_like(model[0].weight, 0.01))
        model[0].weight[:, 0, 0, 0] = 5.0
        model[3].weight.fill_(1.0)
    coded_net.wrap_(model, {"0": 1.0, "3": 1.0}, bit_width=8, inherited=False)
    answers = iter([np.zeros(3), np.zeros(3), np.ones(3), np.ones(3)])
    first, second = post_prune_(model, lambda: next(answers), share=0.2, tolerance=0.1)
    assert first.changed > 0 and second.changed == 0


def test_granules_go_whole_and_fixed_densities_stay():
    model = coded_net.wrap_(coded_net.network(), {"0": 1.0, "3": 1.0}, inherited=False)
    (_, pattern, _), (_, block, _) = wrapped(model)
    pattern.granularity, block.granularity = "2:3", "block(3)"
    fixed, free = post_prune_(model, lambda: np.zeros(2), share=0.3, tolerance=0.0)
    assert fixed.reason == "granularity 2:3 fixes the density" and pattern.mask.all()
    rows = block.mask.flatten(1).view(6, 12, 3)
    assert free.changed > 0 and torch.equal(rows.all(2), rows.any(2))


def test_bytes_are_packed_codes_and_the_entropy_of_masks():
    model = coded_net.wrap_(coded_net.network(), {"3": 0.25}, bit_width=3, inherited=False)
    wrapper = next(wrapped(model))[1]
    p = float(wrapper.mask.float().mean())
    entropy = -216 * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert coded_bytes(model) == round((8 * np.ceil(3 * int(wrapper.mask.sum()) / 8) + entropy) / 8)
