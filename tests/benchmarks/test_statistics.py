"""Means, deviations, paired differences and the front."""

import pytest
from harness.statistics import (
    Spread,
    accuracy_so_far,
    added_bytes,
    front,
    live_bytes,
    max_forgetting,
    paired_difference,
    paired_ratio,
    signed_points,
    spread,
    training_processor,
)


def test_spread_of_three_values():
    found = spread([1.0, 2.0, 6.0])
    assert (found.mean, found.deviation) == (3.0, pytest.approx(7**0.5))
    assert found.text(1) == "3.0 ± 2.6"
    assert spread([2.0]) == Spread(2.0, None, 1)
    assert spread([2.0]).text(2) == "2.00"


def test_the_difference_is_paired_by_seed(make_line):
    base = [make_line("cold", 0, acc=0.5), make_line("cold", 1, acc=0.9)]
    found = paired_difference([make_line("a", 1, acc=0.8), make_line("a", 0, acc=0.4), make_line("a", 7, acc=0.0)], base, "acc")
    assert found is not None
    assert found.mean == pytest.approx(-0.1)
    assert found.deviation == pytest.approx(0.0)
    assert paired_difference([make_line("a", 7)], base, "acc") is None


def test_the_ratio_is_paired_by_seed(make_line):
    base = [make_line("b", 0, store_bytes=100), make_line("b", 1, store_bytes=200)]
    found = paired_ratio([make_line("a", 1, store_bytes=100), make_line("a", 0, store_bytes=30), make_line("a", 7)], base, live_bytes)
    assert found is not None
    assert (found.mean, found.count) == (pytest.approx(0.4), 2)
    assert paired_ratio([make_line("a", 7)], base, live_bytes) is None


def test_added_bytes_leave_out_the_first_task(make_line):
    tasks = [{"bytes": 1000}, {"bytes": 10}, {"bytes": 20}]
    assert added_bytes(make_line("a", tasks=tasks)) == 15
    assert added_bytes(make_line("a", tasks=tasks[:1])) == 1000


def test_the_front_holds_what_nothing_beats():
    points = {"small": (1, 0.2), "middle": (5, 0.6), "large": (9, 0.7), "worse": (5, 0.5), "dearer": (6, 0.6)}
    assert front(points) == {"small", "middle", "large"}
    assert front({"a": (1, 0.5), "twin": (1, 0.5)}) == {"a", "twin"}


def test_accuracies_as_tasks_arrive(make_line):
    line = make_line("a", R=[[0.9, None, None], [0.5, 0.7, None], [0.6, 0.1, 0.8]])
    assert accuracy_so_far(line) == pytest.approx([0.9, 0.6, 0.5])
    assert max_forgetting(line) == pytest.approx((0.3 + 0.6 + 0.0) / 3)
    assert max_forgetting(make_line("cold", dense=True)) is None


def test_superseded_revisions_do_not_count(make_line):
    assert live_bytes(make_line("a", store_bytes=100, superseded_bytes=30)) == 70
    assert live_bytes(make_line("older line", store_bytes=100)) == 100


def test_processor_seconds_of_training_are_those_of_the_lines_that_hold_them(make_line):
    older = make_line("a", 0)
    del older["training_cpu_s"]
    assert training_processor([older]) == ""
    assert training_processor([older, make_line("a", 1, training_cpu_s={"x": 1.0, "y": 2.0})]) == "3.0"


def test_points_have_a_sign():
    assert signed_points(Spread(0.01234, 0.005, 2)) == "+1.23 ± 0.50"
    assert signed_points(Spread(-0.01234, None)) == "-1.23"
