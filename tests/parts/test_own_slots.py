"""Slots are used by score and owned by how far they moved, each layer by its own density or all under one budget."""

import numpy as np
import torch
from torch import nn

from tsn_toolkit.parts.own_slots import FLOOR, choose_own_slots_, divide_budget_, refresh_masks_, start_scores_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_


def make_net(shapes, density, rule="replace"):
    """Bias-free linear layers over random full frozen views, each at its inherited weight."""
    random = np.random.default_rng(0)
    model = nn.Sequential(*(nn.Linear(fan_in, out, bias=False) for out, fan_in in shapes))
    for module, (out, fan_in) in zip(model, shapes, strict=True):
        q = torch.from_numpy(random.integers(1, 100, (out, fan_in)).astype(np.float32))
        scale = torch.from_numpy(random.uniform(0.01, 0.1, out).astype(np.float32))
        wrapper = SubnetWeight(q, torch.ones(out, fan_in, dtype=torch.bool), scale, rule=rule, density=density, bit_width=2, max_code=127)
        module.weight.data.copy_(q * scale[:, None])
        attach_(module, wrapper)
    return model


def test_total_is_what_the_densities_ask_for_and_the_largest_relative_changes_win():
    model = make_net([(6, 5), (4, 6), (3, 4)], 0.3)
    random = np.random.default_rng(1)
    changes = []
    for _, _, latent in wrapped(model):
        base = latent.detach().numpy().astype(np.float64).copy()
        latent.data += torch.from_numpy(random.normal(0, 0.5, base.shape).astype(np.float32))
        changes.append(np.abs(latent.detach().numpy() - base) / np.sqrt(np.square(base).mean()))
    choose_own_slots_(model, shared=True)
    chosen = np.concatenate([wrapper.mask.numpy().reshape(-1) for _, wrapper, _ in wrapped(model)])
    ranking = np.concatenate([change.reshape(-1) for change in changes])
    assert chosen.sum() == round(0.3 * 30) + round(0.3 * 24) + round(0.3 * 12)
    assert ranking[chosen].min() > ranking[~chosen].max()


def test_a_layer_that_changed_more_owns_more():
    model = make_net([(5, 4), (5, 5)], 0.2)
    (_, first, _), (_, second, latent) = wrapped(model)
    latent.data += 10
    choose_own_slots_(model, shared=True)
    assert (int(first.mask.sum()), int(second.mask.sum())) == (0, 9)


def test_layers_of_the_other_rule_keep_their_mask():
    model = make_net([(3, 3)], 0.2, rule="select")
    choose_own_slots_(model, shared=True)
    assert next(wrapped(model))[1].mask.all()


def test_without_a_shared_budget_every_layer_owns_its_density():
    model = make_net([(5, 4), (5, 5)], 0.2)
    (_, first, _), (_, second, latent) = wrapped(model)
    latent.data += 10
    choose_own_slots_(model, shared=False)
    assert (int(first.mask.sum()), int(second.mask.sum())) == (4, 5)


def chain_net(granularities=("element", "element"), densities=(0.2, 0.2)):
    """Two layers 4 -> 5 -> 3 of free slots, wrapped, with random weights."""
    random = np.random.default_rng(2)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False))
    for module, granularity, density in zip(model, granularities, densities, strict=True):
        module.weight.data.copy_(torch.from_numpy(random.normal(0, 1, tuple(module.weight.shape)).astype(np.float32)))
        empty = torch.zeros(module.weight.shape)
        attach_(module, SubnetWeight(empty, empty.bool(), None, rule="select", density=density, bit_width=2, max_code=127, granularity=granularity))
    return model, [wrapper for _, wrapper, _ in wrapped(model)]


def squares(logits, targets):
    return ((logits - targets) ** 2).mean()


BATCHES = [(torch.randn(6, 4, generator=g), torch.randn(6, 3, generator=g)) for g in (torch.Generator().manual_seed(seed) for seed in (0, 1, 2))]


def slow_sensitivities(model):
    """|sum over batches of dL/dm| with m = 1, by central differences in float64."""
    weights = [module.parametrizations.weight.original.detach().double() for module in model]

    def total_loss(first, second):
        return sum(float(squares(x.double() @ first.T @ second.T, y.double())) for x, y in BATCHES)

    found = []
    for number, weight in enumerate(weights):
        change = torch.zeros_like(weight)
        for index in np.ndindex(*weight.shape):
            values = []
            for step in (1e-4, -1e-4):
                moved = [w.clone() for w in weights]
                moved[number][index] *= 1 + step
                values.append(total_loss(*moved))
            change[index] = abs(values[0] - values[1]) / 2e-4
        found.append(change.numpy())
    return found


def test_a_budget_is_divided_by_sensitivity_and_adds_up():
    model, layers = chain_net()
    expected = slow_sensitivities(model)
    divide_budget_(model, BATCHES, squares)
    threshold = np.sort(np.concatenate([layer.reshape(-1) for layer in expected]))[-(4 + 3)]
    counts = [int((layer >= threshold).sum()) for layer in expected]
    assert counts != [4, 3] and sum(counts) == 7
    assert [round(wrapper.density * wrapper.score.numel()) for wrapper in layers] == counts
    assert all(parameter.grad is None for parameter in model.parameters())
    start_scores_(model)
    for module, wrapper, count in zip(model, layers, counts, strict=True):
        size = module.parametrizations.weight.original.detach().abs()
        assert int(wrapper.mask.sum()) == count and size[wrapper.mask].min() > size[~wrapper.mask].max() and torch.equal(wrapper.score, size)
    layers[0].score.data.zero_()[2, 1] = 9
    refresh_masks_(model)
    assert layers[0].mask[2, 1]


def inheriting_layer(density=0.25):
    """One layer of 2 x 4 slots: the parent uses slots 0 and 1, other ancestors own 2 and 3, the rest is free and small."""
    latent = torch.tensor([[3.0, -2.0, 5.0, 4.0], [0.1, -0.2, 0.3, 0.4]])
    present = torch.tensor([[True] * 4, [False] * 4])
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    model[0].weight.data.copy_(latent)
    wrapper = SubnetWeight(latent * present, present, torch.ones(2), rule="select", density=density, bit_width=2, max_code=127)
    wrapper.preferred[0, :2] = True
    attach_(model[0], wrapper)
    return model, wrapper


def test_a_task_begins_with_the_slots_that_its_parent_uses():
    model, wrapper = inheriting_layer()
    start_scores_(model)
    assert wrapper.mask.tolist() == [[True, True, False, False], [False] * 4]
    torch.testing.assert_close(wrapper.score.detach(), torch.tensor([[3.0, 2.0, 0.05, 0.04], [0.1, 0.2, 0.3, 0.4]]))


def test_a_dense_start_leaves_out_what_the_parent_does_not_use():
    model, wrapper = inheriting_layer()
    start_scores_(model, start_density=1.0)
    assert wrapper.mask.tolist() == [[True, True, False, False], [True] * 4]
    wrapper.score.data[0, 2] = 7  # a slot of another ancestor can be won back
    refresh_masks_(model, 1.0)
    assert wrapper.mask.tolist() == [[True, False, True, False], [False] * 4]


def test_no_layer_dies_under_one_budget():
    model, layers = chain_net(densities=(0.3, 0.9))
    model[1].parametrizations.weight.original.data.zero_()  # sensitive to nothing, and nothing before it is
    divide_budget_(model, BATCHES, squares)
    counts = [round(wrapper.density * wrapper.score.numel()) for wrapper in layers]
    assert sum(counts) == 6 + 14 and counts[1] == max(1, int(FLOOR * 14))


def test_a_layer_whose_granularity_fixes_its_density_takes_no_part_in_the_budget():
    model, layers = chain_net(("block(2)", "2:5"), (0.5, 0.4))
    divide_budget_(model, BATCHES, squares)
    start_scores_(model)
    assert layers[0].density == 0.5 and layers[1].density == 0.4
    assert layers[0].mask.view(-1, 2).sum(1).remainder(2).eq(0).all() and layers[1].mask.sum(1).eq(2).all()
