"""A nested result as indented lines."""

import pytest

from tsn_toolkit.report.indented_text import indented_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": {"c": [1, {"d": "x"}], "e": {}}}, "a: 1\nb:\n  c:\n    -: 1\n    -:\n      d: x\n  e: {}"),
        ([], ""),
        ("word", "word"),
    ],
)
def test_depth_is_two_blanks_and_what_is_empty_stays_on_its_line(value, text):
    assert indented_text(value) == text
