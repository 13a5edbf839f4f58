"""Scores are taken as they are, or refused by name."""

import numpy as np
import pytest

from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking.checked import checked_scores

SHAPES = {"a": (2, 3), "b": (0,)}
SCORES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0), "c": np.array([np.nan])}


def test_what_is_ranked_is_returned_as_float64_and_the_rest_left_out():
    found = checked_scores(SCORES, SHAPES, "layer")
    assert list(found) == ["a", "b"] and found["a"].dtype == np.float64
    assert found["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] and found["b"].shape == (0,)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "Scores of layer `a` are missing, given are none"),
        ({"b": SCORES["b"]}, "Scores of layer `a` are missing, given are b"),
        ({**SCORES, "a": np.ones((3, 2))}, r"Scores of layer `a` must have shape \(2, 3\), got \(3, 2\)"),
        ({**SCORES, "a": np.array([[0, 1, 2], [3, np.inf, np.nan]])}, "Scores of layer `a` must be finite, got inf at entry 4"),
    ],
)
def test_refused_by_name(scores, message):
    with pytest.raises(PlanError, match=message):
        checked_scores(scores, SHAPES, "layer")
