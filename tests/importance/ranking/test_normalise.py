"""Normalisation between layers, by hand."""

import numpy as np
import pytest

from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking import normalise

SCORES = {"a": np.array([3.0, -4.0]), "b": np.array([[2.0, 2.0], [6.0, 6.0]]), "nothing": np.zeros(2)}


@pytest.mark.parametrize(("how", "a", "b"), [("none", 1, 1), ("mean", 3.5, 4), ("l2", 5, 80**0.5)])
def test_every_array_is_divided_by_its_own_number(how, a, b):
    found = normalise(SCORES, how)
    assert found["a"] == pytest.approx(SCORES["a"] / a) and found["b"] == pytest.approx(SCORES["b"] / b)
    assert not found["nothing"].any()
    assert SCORES["a"].tolist() == [3, -4]


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(PlanError, match="none, mean, l2, got 'means'.*'mean'"):
        normalise(SCORES, "means")
