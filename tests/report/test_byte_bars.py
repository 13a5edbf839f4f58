"""Bars add up to the bytes they stand for."""

from typing import Any

from tsn_toolkit.report.byte_bars import denominator_bars, part_bars


def test_segments_add_up_to_the_part(inspection: dict[str, Any]) -> None:
    bars = part_bars(inspection)
    assert [bar.count for bar in bars] == ["923", "5,210", "3,120", "2,987", "2,890", "2,755"]
    for bar in bars:
        assert sum(int(segment.count.replace(",", "")) for segment in bar.segments) == int(bar.count.replace(",", ""))
    assert abs(sum(segment.percent for segment in bars[1].segments) - 100) < 0.01
    assert abs(sum(segment.percent for segment in bars[0].segments) - 100 * 923 / 5210) < 0.01


def test_bytes_without_a_kind_show_as_other() -> None:
    (bar,) = part_bars({"parts": [{"path": "p", "bytes": 100, "breakdown": {"masks": 60}}]})
    assert [(segment.kind, segment.count, segment.percent) for segment in bar.segments] == [("masks", "60", 60.0), ("other", "40", 40.0)]


def test_denominators_share_one_scale(summary: dict[str, Any]) -> None:
    bars = denominator_bars(summary)
    assert [bar.segments[0].percent for bar in bars] == [2.353, 20.273, 100.0, 26.483, 3.272]
    assert [bar.note for bar in bars][1:] == [f"the store is {words} of it" for words in ("0.116", "0.0235", "0.0888", "0.719")]
