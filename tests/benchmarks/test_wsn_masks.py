"""Masks of WSN: every coding comes back, and the smallest is taken."""

import lzma

import numpy as np
import pytest
import torch
from harness.wsn_masks import BITS, BY_USE, LZMA, RUN, decode_mask, encode_mask

SHAPE = (170, 590)


def drawn(share, seed):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < share


NONE = torch.zeros(SHAPE, dtype=torch.bool)


@pytest.mark.parametrize(
    ("mask", "used", "last", "form"),
    [
        pytest.param(drawn(0.5, 0), NONE, NONE, BITS, id="nothing to save"),
        pytest.param(torch.arange(SHAPE[0]).expand(SHAPE[1], -1).T % 2 == 0, NONE, NONE, LZMA, id="a pattern"),
        pytest.param(drawn(0.05, 0), NONE, NONE, RUN, id="few and scattered"),
        pytest.param(drawn(0.1, 1) & drawn(0.9, 2), drawn(0.1, 1) | drawn(0.1, 3), drawn(0.1, 1), BY_USE, id="nearly the last task's"),
        pytest.param(NONE, NONE, NONE, RUN, id="nothing kept"),
        pytest.param(~NONE, ~NONE, NONE, RUN, id="everything kept"),
    ],
)
def test_masks_come_back_in_the_smallest_coding(mask, used, last, form):
    data = encode_mask(mask, used, last)
    assert torch.equal(decode_mask(data, used, last), mask)
    assert int(data[0]) == form


def test_scattered_slots_cost_their_entropy_where_lzma_costs_more():
    mask, share = drawn(0.1, 0), 0.1
    data = encode_mask(mask, NONE, NONE)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * mask.numel() / 8
    assert len(data) < 1.01 * entropy
    assert len(data) < 0.95 * len(lzma.compress(np.packbits(mask.numpy()).tobytes(), format=lzma.FORMAT_ALONE))


def test_the_tasks_before_are_worth_bytes():
    last = drawn(0.1, 0)
    mask = last & drawn(0.8, 1) | drawn(0.02, 2)
    assert len(encode_mask(mask, last, last)) < 0.7 * len(encode_mask(mask, NONE, NONE))


@pytest.mark.parametrize("size", [0, 1, 7, 1003])
def test_masks_of_any_size_come_back(size):
    mask = torch.arange(size) % 3 == 0
    used = torch.arange(size) % 2 == 0
    assert torch.equal(decode_mask(encode_mask(mask, used, used), used, used), mask)
    assert len(encode_mask(mask, used, used)) <= 1 + -(-size // 8), "never more than the bits themselves"
