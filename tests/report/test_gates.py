"""A package passes only when its file says so, or names no failure."""

from typing import Any

import pytest

from tsn_toolkit.report.gates import gate_rows


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        ({}, None),
        ({"failures": []}, True),
        ({"failures": ["SQNR is 9.1 dB"]}, False),
        ({"passed": True, "failures": []}, True),
        ({"passed": False}, False),
    ],
)
def test_whether_a_package_passed(measured: dict[str, Any], passed: bool | None) -> None:
    (row,) = gate_rows({"a": {"cpu": measured}})
    assert row.passed is passed
    assert (row.task, row.target, row.failures) == ("a", "cpu", tuple(measured.get("failures", ())))
