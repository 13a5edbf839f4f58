"""Metrics against hand-computed cases."""

import pytest

from tsn_toolkit.metrics import continual_metrics

ROWS = [
    [0.90, None, None],
    [0.70, 0.80, None],
    [0.85, 0.60, 1.00],
]


def test_continual_by_hand() -> None:
    numbers = continual_metrics(ROWS)
    assert numbers.acc == pytest.approx((0.85 + 0.60 + 1.00) / 3)
    assert numbers.bwt == pytest.approx(((0.85 - 0.90) + (0.60 - 0.80)) / 2)
    assert numbers.fwt is None
    assert numbers.max_forgetting == pytest.approx(((0.90 - 0.85) + (0.80 - 0.60) + 0.0) / 3)


def test_forward_transfer_uses_the_entry_before_learning() -> None:
    rows = [[0.9, 0.55, 0.2], [0.9, 0.8, 0.65], [0.9, 0.8, 1.0]]
    assert continual_metrics(rows, [0.1, 0.5, 0.5]).fwt == pytest.approx(((0.55 - 0.5) + (0.65 - 0.5)) / 2)
    assert continual_metrics(ROWS, [0.1, 0.5, 0.5]).fwt is None


def test_one_task_has_no_transfer() -> None:
    numbers = continual_metrics([[0.75]], [0.5])
    assert (numbers.acc, numbers.bwt, numbers.fwt, numbers.max_forgetting) == (0.75, None, None, 0.0)


def test_invariance_gives_exactly_zero() -> None:
    numbers = continual_metrics([[0.1, None], [0.1, 0.3]])
    assert (numbers.bwt, numbers.max_forgetting) == (0.0, 0.0)
