"""The mask of the k largest scores: exact, and ties always broken the same way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.masks.top import keep_count, top_mask

LEVELS = st.sampled_from([-1.5, -1.0, -0.0, 0.0, 0.25, 1.0, 1e-30, 3.0])
"""Few levels, so that most examples have ties."""


def slow_top_mask(scores, keep):
    """One entry after the other: the largest score, of equal ones the first."""
    left = list(enumerate(scores))
    mask = np.zeros(len(scores), bool)
    for _ in range(keep):
        best = left[0]
        for candidate in left[1:]:
            if candidate[1] > best[1]:
                best = candidate
        mask[best[0]] = True
        left.remove(best)
    return mask


@settings(max_examples=120, deadline=None)
@given(scores=st.lists(LEVELS | st.floats(-10, 10, width=32), max_size=40), share=st.floats(0, 1))
def test_equals_the_slow_reference(scores, share):
    keep = round(share * len(scores))
    mask = top_mask(torch.tensor(scores, dtype=torch.float32), keep)
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), slow_top_mask(np.array(scores, np.float32).tolist(), keep))


def test_by_hand_with_ties_in_c_order():
    scores = torch.tensor([[1.0, 3.0, 1.0], [1.0, 2.0, 1.0]])
    assert top_mask(scores, 4).tolist() == [[True, True, True], [False, True, False]]


def test_layout_in_memory_does_not_decide_ties():
    scores = torch.zeros(4, 6, 3, 3)
    mask = top_mask(scores, 50)
    assert torch.equal(top_mask(scores.to(memory_format=torch.channels_last), 50), mask)
    assert mask.flatten()[:50].all() and not mask.flatten()[50:].any()


def test_empty_and_full():
    assert top_mask(torch.empty(0, 3), 0).shape == (0, 3)
    assert not top_mask(torch.ones(2, 2), 0).any()
    assert top_mask(torch.ones(2, 2), 4).all()


@pytest.mark.parametrize("keep", [-1, 5])
def test_impossible_count_is_refused(keep):
    with pytest.raises(ValueError, match=rf"0\.\.4, got {keep}"):
        top_mask(torch.ones(2, 2), keep)


@settings(max_examples=200, deadline=None)
@given(density=st.floats(1e-6, 1), size=st.integers(1, 100_000))
def test_density_reached_is_within_one_slot_of_the_request(density, size):
    keep = keep_count(density, size)
    assert 1 <= keep <= size
    assert abs(keep / size - density) <= 1 / size


def test_an_empty_layer_keeps_nothing():
    assert keep_count(0.5, 0) == 0


def sorted_mask(scores, keep):
    """By a full stable sort."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, kind="stable")[:keep]] = True
    return mask


@pytest.mark.parametrize("keep", [1, 7, 4_000, 20_000, 39_999])
@pytest.mark.parametrize("kind", ["normal", "few levels", "ascending", "sample sees only zeros", "infinite"])
def test_many_scores_equal_a_full_sort_whatever_a_sample_sees(kind, keep):
    random = np.random.default_rng(1)
    scores = random.standard_normal(40_000).astype(np.float32)
    if kind == "few levels":
        scores = np.round(scores)
    elif kind == "ascending":
        scores = np.sort(scores)
    elif kind == "sample sees only zeros":
        scores[:: 40_000 // 4096] = 0
        scores[1 :: 40_000 // 4096] = np.abs(scores[1 :: 40_000 // 4096]) + 5
    elif kind == "infinite":
        scores[random.random(40_000) < 0.3] = np.inf
    np.testing.assert_array_equal(top_mask(torch.from_numpy(scores), keep).numpy(), sorted_mask(scores, keep))
