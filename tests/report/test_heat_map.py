"""Shades of a heat map."""

import pytest

from tsn_toolkit.report.heat_map import heat_map, shade_floor


def test_shades_run_from_low_to_high() -> None:
    found = heat_map(["a", "b"], ["x", "y"], [[0.8, 0.9], [1.0, None]], low=0.8)
    cells = [cell for _, line in found.rows for cell in line]
    assert [cell.shade for cell in cells] == [0.0, 0.5, 1.0, 0.0]
    assert [cell.text for cell in cells] == ["0.8000", "0.9000", "1.0000", ""]
    assert [cell.dark for cell in cells] == [False, False, True, False]


def test_values_outside_are_clipped() -> None:
    found = heat_map(["a"], ["x", "y"], [[-0.5, 1.5]], low=0.0)
    assert [cell.shade for cell in found.rows[0][1]] == [0.0, 1.0]


def test_equal_low_and_high_do_not_divide_by_zero() -> None:
    assert heat_map(["a"], ["x"], [[1.0]], low=1.0).rows[0][1][0].shade == 0.0


@pytest.mark.parametrize(("values", "floor"), [([[0.97, None]], 0.9), ([[None]], 0.0), ([], 0.0), ([[1.0]], 1.0), ([[0.04]], 0.0)])
def test_the_floor_lies_below_all_values(values: list[list[float | None]], floor: float) -> None:
    assert shade_floor(values) == floor


def test_a_row_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        heat_map(["a", "b"], ["x"], [[0.5]], low=0.0)
