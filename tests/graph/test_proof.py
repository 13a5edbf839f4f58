"""The proof sees a wrong removal."""

import copy

import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import InputRecord
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph import prove_equal


def test_error_is_relative_to_the_largest_output():
    torch.manual_seed(0)
    masked = nn.Linear(4, 3)
    shrunk = copy.deepcopy(masked)
    with torch.no_grad():
        masked.weight.zero_(), shrunk.weight.zero_()
        masked.bias.copy_(torch.tensor([1.0, -4.0, 2.0]))
        shrunk.bias.copy_(torch.tensor([1.0, -4.0, 3.0]))
    assert prove_equal(masked, shrunk, (4,), seed=0, tolerance=0.3) == pytest.approx(0.25)
    with pytest.raises(GraphError, match=r"differ by 0\.25 .*at most 0\.2"):
        prove_equal(masked, shrunk, (4,), seed=0, tolerance=0.2)


def test_not_finite_is_never_equal():
    masked = nn.Linear(2, 2)
    with torch.no_grad():
        masked.bias.fill_(float("nan"))
    with pytest.raises(GraphError, match="differ by inf"):
        prove_equal(masked, copy.deepcopy(masked), (2,), seed=0)


def test_shape_and_failure_are_named():
    with pytest.raises(GraphError, match=r"from \[\(2, 3\)\] to \[\(2, 2\)\]"):
        prove_equal(nn.Linear(4, 3), nn.Linear(4, 2), (4,), seed=0)
    with pytest.raises(GraphError, match="cannot run.*5x3"):
        prove_equal(nn.Linear(4, 3), nn.Linear(5, 3), (4,), seed=0)
    with pytest.raises(GraphError, match=r"masked model cannot run on shape \(2, 6\)"):
        prove_equal(nn.Linear(4, 3), nn.Linear(4, 3), (6,), seed=0)


def test_modes_are_put_back_and_example_is_used():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Dropout(0.5)).train()
    assert prove_equal(model, copy.deepcopy(model), (InputRecord("ids", (3,), "int64", 5),), seed=0) == 0.0
    assert model.training and model[1].training
