"""The mask's counts at every point of the schedule, what is pruned, what grows, and the operations of an update."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_count import numbers_in

from tsn_toolkit.parts import dynamic_mask
from tsn_toolkit.parts.dynamic_mask import DynamicMask, grow, importance, prune, targets


def mask_of(weights, **changes):
    settings = {"sparsity": 0.75, "swing": 0.05, "gradient_weight": 0.5, "generator": torch.Generator().manual_seed(0), **changes}
    return DynamicMask(weights, **settings)


def test_the_schedule_widens_early_swings_in_the_middle_and_only_prunes_late():
    assert targets(0.9, 0.02, 0.09) == (0.9, 0.88)
    assert targets(0.9, 0.02, 0.1) == targets(0.9, 0.02, 0.89) == (0.92, 0.9)
    assert targets(0.9, 0.02, 0.9) == (0.9, 0.9)


def test_counts_follow_the_schedule_and_weights_the_mask():
    weight = torch.nn.Parameter(torch.randn(20, 10, generator=torch.Generator().manual_seed(1)))
    mask = mask_of({"w": weight})
    assert int(mask.masks["w"].sum()) == 50 and mask.densities == {"w": 0.25}
    assert weight.detach().abs()[mask.masks["w"]].min() > 0 and (weight[~mask.masks["w"]] == 0).all()
    for progress, active in ((0.0, 60), (0.5, 50), (0.95, 50)):
        weight.grad = torch.randn(20, 10, generator=torch.Generator().manual_seed(2))
        mask.update_(progress)
        assert int(mask.masks["w"].sum()) == active and mask.densities["w"] == active / 200
        assert (weight[~mask.masks["w"]] == 0).all()


def test_weights_that_are_zero_start_masked_and_grow_back():
    weight = torch.nn.Parameter(torch.zeros(4, 5))
    with torch.no_grad():
        weight[0, 0], weight[1, 1] = 2.0, -3.0
    mask = mask_of({"w": weight}, sparsity=0.5, swing=0.0)
    assert mask.masks["w"].nonzero().tolist() == [[0, 0], [1, 1]]
    mask.update_(0.0)
    assert int(mask.masks["w"].sum()) == 10 and mask.masks["w"][0, 0] and mask.masks["w"][1, 1]


def test_importance_is_size_and_a_share_of_the_gradient_s():
    weight, gradient = torch.tensor([0.5, -1.2, 1.0]), torch.tensor([-2.0, 0.0, 0.2])
    torch.testing.assert_close(importance(weight, gradient, 0.5), torch.tensor([1.5, 1.2, 1.1]))
    torch.testing.assert_close(importance(weight, None, 0.5), weight.abs())


def test_an_update_prunes_by_the_importance():
    """0.3 + 0.5 * 4 beats 1: of the two active slots the smaller weight stays."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0.3, 0.0, 0.0]]))
    mask = mask_of({"w": weight}, sparsity=0.5, swing=0.25)
    weight.grad = torch.tensor([[0.0, 4.0, 9.0, 9.0]])
    mask.update_(0.5)
    assert mask.masks["w"][0, 1] and weight[0, 0] == 0 and int(mask.masks["w"].sum()) == 2


@given(st.integers(1, 60), st.integers(0, 2**31), st.data())
def test_pruning_and_growing_by_their_definitions(size, seed, data):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(size, generator=generator) < 0.6
    importance = torch.randint(5, (size,), generator=generator).float()
    keep = data.draw(st.integers(0, size))
    pruned = prune(mask, importance, keep)
    assert not (pruned & ~mask).any() and int(pruned.sum()) == min(keep, int(mask.sum()))
    if pruned.any() and (mask & ~pruned).any():
        assert importance[pruned].min() >= importance[mask & ~pruned].max()
    active = data.draw(st.integers(0, size))
    grown = grow(pruned, active, generator)
    assert (grown & pruned).equal(pruned) and int(grown.sum()) == max(active, int(pruned.sum()))


def test_growth_is_uniform():
    mask, counts = torch.tensor([True] + [False] * 9), torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        counts += grow(mask, 4, generator)
    assert counts[0] == 3000 and (counts[1:] / 3000 - 3 / 9).abs().max() < 4 * (2 / 9 / 3000) ** 0.5


def test_operations_of_an_update_are_those_that_run():
    weights = {"a": torch.nn.Parameter(torch.randn(8, 6)), "b": torch.nn.Parameter(torch.randn(50))}
    mask = mask_of(weights)
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    assert numbers_in(lambda: mask.update_(0.5), ("abs", "mul", "add", "rand"), dynamic_mask) == mask.update_operations() == 8 * 98
    assert numbers_in(mask.apply_, ("mul",), dynamic_mask) == mask.apply_operations() == 98


@pytest.mark.parametrize("sparsity", [0.0, 0.99])
def test_at_least_one_slot_stays_and_nothing_beyond_the_weights_is_active(sparsity):
    weight = torch.nn.Parameter(torch.randn(3, 3))
    mask = mask_of({"w": weight}, sparsity=sparsity, swing=0.2 if sparsity else 0.0)
    mask.update_(0.5)
    assert 1 <= int(mask.masks["w"].sum()) <= 9
