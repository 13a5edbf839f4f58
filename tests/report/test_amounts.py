"""Numbers as text at the edges of their units."""

import pytest

from tsn_toolkit.report import amounts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1024**2 - 1, "1024 KiB"), (1024**2, "1.00 MiB"), (5 * 1024**3, "5.00 GiB")],
)
def test_size(value: int, text: str) -> None:
    assert amounts.size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1000, "1.00 k"), (1236992, "1.24 M"), (1_820_000_000, "1.82 G")])
def test_macs(value: int, text: str) -> None:
    assert amounts.macs(value) == text


@pytest.mark.parametrize("words", [amounts.count, amounts.size, amounts.macs, amounts.fraction, amounts.milliseconds])
def test_a_missing_number_is_said(words: object) -> None:
    assert callable(words) and words(None) == words(float("nan")) == "not measured"


def test_a_ratio_needs_both_numbers() -> None:
    pairs = [(3, 4), (3, None), (None, 4), (3, 0), (0, 4)]
    assert [amounts.ratio(value, reference) for value, reference in pairs] == ["0.750", "", "", "", "0"]
