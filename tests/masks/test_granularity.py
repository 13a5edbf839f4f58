"""Masks of blocks, n:m groups and shared budgets: equal to slow references, near the density asked for, ties always broken the same way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.masks.granularity import Granularity, parse_granularity, shared_masks, structured_mask

ELEMENT = Granularity(block=1)
FORMS = ["element", "unit", "block(1)", "block(3)", "block(8)", "block(100)", "1:2", "2:4", "3:7", "4:4"]


def few_levels(seed, shape):
    """Scores of few levels, so that most examples have ties."""
    return torch.from_numpy(np.random.default_rng(seed).choice([0.0, 0.25, 0.5, 1.0, 2.0], shape).astype(np.float32))


def granules_of(shape, block):
    """Flat indices of every block, row by row."""
    fan_in = int(np.prod(shape[1:]))
    return [
        list(range(row * fan_in + start, row * fan_in + min(start + block, fan_in))) for row in range(shape[0]) for start in range(0, fan_in, block)
    ]


def slow_blocks(layers, budget):
    """The best granules of all layers, one after the other, as long as the next one brings the number of slots nearer to the budget."""
    left = []
    for number, (scores, block) in enumerate(layers):
        flat = scores.reshape(-1).astype(np.float64)
        left += [(-flat[granule].mean(), number, granule) for granule in granules_of(scores.shape, block)]
    left.sort(key=lambda item: item[0])  # stable: ties go to the lower index
    masks, kept = [np.zeros(scores.size, bool) for scores, _ in layers], 0
    for _, number, granule in left:
        if kept and abs(kept + len(granule) - budget) >= abs(kept - budget):
            break
        masks[number][granule] = True
        kept += len(granule)
    return [mask.reshape(scores.shape) for mask, (scores, _) in zip(masks, layers, strict=True)]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("element", Granularity(block=1)),
        ("block(16)", Granularity(block=16)),
        ("2:4", Granularity(keep=2, group=4)),
        ("unit", Granularity()),
    ],
)
def test_parse(text, form):
    assert parse_granularity(text) == form


@pytest.mark.parametrize("text", ["", "block", "block(0)x", "block()", "4:2", "0:4", "2:", "elements", "2:4:8"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="element, unit, block"):
        parse_granularity(text)


def test_the_density_a_granularity_fixes():
    assert [parse_granularity(text).density for text in ("element", "block(4)", "unit", "1:4", "3:4")] == [None, None, 1.0, 0.25, 0.75]


def test_blocks_by_hand():
    scores = torch.tensor([[4.0, 0.0, 1.0, 1.0, 1.5], [3.0, 1.0, 0.0, 0.0, 9.0]])
    # blocks of 2: means 2, 1, 1.5 | 2, 0, 9; the last of a row is a single slot
    assert structured_mask(scores, 0.3, Granularity(block=2)).int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert structured_mask(scores, 0.5, Granularity(block=2)).int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 1]]


def test_n_of_m_by_hand():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0, 5.0, 4.0], [0.0, 0.0, 0.0, 0.0, 0.0, 7.0]])
    # groups of 4, then a short one of 2, which keeps at most 2
    assert structured_mask(scores, 0.5, Granularity(keep=2, group=4)).int().tolist() == [[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]]
    assert structured_mask(scores, 0.25, Granularity(keep=1, group=4)).int().tolist() == [[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6), fan_in=st.integers(1, 20), block=st.integers(1, 9), density=st.floats(0.01, 1))
def test_blocks_equal_the_slow_reference_and_the_density_is_reached(seed, rows, fan_in, block, density):
    scores = few_levels(seed, (rows, fan_in))
    mask = structured_mask(scores, density, Granularity(block=block)).numpy()
    granules = granules_of(scores.shape, block)
    assert all(len(set(mask.reshape(-1)[granule])) == 1 for granule in granules), "a block stands or falls as one"
    np.testing.assert_array_equal(mask, slow_blocks([(scores.numpy(), block)], max(1, round(density * scores.numel())))[0])
    assert abs(mask.mean() - density) <= min(block, fan_in) / scores.numel()


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), fan_in=st.integers(1, 23), keep=st.integers(1, 5), more=st.integers(0, 5))
def test_n_of_m_keeps_the_first_of_the_largest(seed, rows, fan_in, keep, more):
    scores, group = few_levels(seed, (rows, fan_in)), keep + more
    mask = structured_mask(scores, keep / group, Granularity(keep=keep, group=group)).numpy()
    for granule in granules_of(scores.shape, group):
        order = sorted(granule, key=lambda slot: -float(scores.view(-1)[slot]))
        assert sorted(np.array(granule)[mask.reshape(-1)[granule]]) == sorted(order[:keep])


@pytest.mark.parametrize("text", FORMS)
def test_a_score_more_never_loses_its_slot_and_shapes_stay(text):
    form, scores = parse_granularity(text), few_levels(3, (4, 3, 3, 3))
    mask = structured_mask(scores, 0.4, form)
    assert mask.shape == scores.shape and mask.dtype == torch.bool
    assert torch.equal(structured_mask(scores.to(memory_format=torch.channels_last), 0.4, form), mask)
    slot = tuple(mask.nonzero()[0])
    raised = scores.clone()
    raised[slot] += 10
    assert structured_mask(raised, 0.4, form)[slot]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.lists(st.integers(1, 4), min_size=1, max_size=4), share=st.floats(0.05, 1))
def test_a_shared_budget_equals_the_slow_reference(seed, blocks, share):
    layers = [(few_levels(seed + number, (3, 5 + number)), block) for number, block in enumerate(blocks)]
    budget = max(1, round(share * sum(scores.numel() for scores, _ in layers)))
    masks = shared_masks([scores for scores, _ in layers], [Granularity(block=block) for _, block in layers], budget)
    for mask, expected in zip(masks, slow_blocks([(scores.numpy(), block) for scores, block in layers], budget), strict=True):
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_a_floor_keeps_a_layer_alive_with_its_best_slots():
    low, high = torch.tensor([[0.1, 0.3, 0.2]]), torch.full((2, 3), 5.0)
    masks = shared_masks([low, high], [ELEMENT, ELEMENT], 5, [2, 1])
    assert masks[0].tolist() == [[False, True, True]] and int(masks[1].sum()) == 3
    assert not shared_masks([low, high], [ELEMENT, ELEMENT], 5)[0].any()


@pytest.mark.parametrize(("budget", "floors", "message"), [(10, None, r"0\.\.9 slots, got 10"), (2, [2, 1], r"3\.\.9 slots, got 2")])
def test_a_budget_that_cannot_be_met(budget, floors, message):
    with pytest.raises(ValueError, match=message):
        shared_masks([torch.ones(1, 3), torch.ones(2, 3)], [ELEMENT, ELEMENT], budget, floors)
