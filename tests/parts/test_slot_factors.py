"""Factors of slots: by hand, and remembered until a buffer changes."""

import pytest
import torch

from tsn_toolkit.parts.slot_factors import Remembered, frozen_factors, slot_factors

Q = torch.tensor([[10.0, 0.0], [0.0, -20.0]])
PRESENT = torch.tensor([[True, False], [False, True]])
SCALE = torch.tensor([0.5, 0.25])


def test_factors_by_hand():
    frozen = frozen_factors(Q, PRESENT, SCALE)
    assert frozen.inherited.tolist() == [[5.0, 0.0], [0.0, -5.0]] and frozen.free.tolist() == [[0.0, 1.0], [1.0, 0.0]] and not frozen.empty
    mask, refined = torch.tensor([[True, True], [False, True]]), torch.tensor([[True, False], [False, False]])
    found = slot_factors(frozen, mask, refined, "select")
    assert found.read.tolist() == [[5.0, 0.0], [0.0, -5.0]] and found.own.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert found.moving.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert (found.own_index.tolist(), found.refined_index.tolist()) == ([1], [0])
    full = frozen_factors(Q + 1, torch.ones(2, 2, dtype=torch.bool), SCALE)
    found = slot_factors(full, mask, None, "replace")
    assert found.read.tolist() == [[0.0, 0.0], [0.25, 0.0]] and found.own.tolist() == [[1.0, 1.0], [0.0, 1.0]] and found.moving is found.own
    assert frozen_factors(0 * Q, torch.zeros(2, 2, dtype=torch.bool), SCALE).empty


@pytest.mark.parametrize("change", ["write", "replace"])
def test_a_value_is_made_anew_only_when_a_source_changed(change):
    remembered, made = Remembered(), []
    sources = [torch.zeros(2), torch.zeros(2)]

    def value():
        return remembered.value(tuple(sources), lambda: made.append(0) or len(made))

    assert [value(), value()] == [1, 1]
    if change == "write":
        sources[1].add_(1)
    else:
        sources[1] = sources[1].clone()
    assert [value(), value()] == [2, 2]
