"""Numbers of the analyzer's benchmark by hand."""

import analyzer
import pytest
import torch


def test_the_exponent_is_the_slope_between_logarithms():
    points = [{"operations": n, "trace_s": 0.01 * n**1.5} for n in (50, 200, 1000)]
    assert analyzer.exponent_of(points) == pytest.approx(1.5)


def test_the_page_holds_the_numbers():
    row = {"model": "resnet50", "trace_s": 1.234, "export_s": 1.0, "ratio": 1.234, "operations": 177, "open_groups": 37}
    growth = {"points": [{"operations": 50, "trace_s": 0.25}], "exponent": 1.087}
    about = {"command": "a command", "repeats": 3, "processor": "p", "versions": {"torch": "2.0"}}
    page = analyzer.render({"ratios": [row], "growth": growth, **about})
    assert "| resnet50 | 177 | 37 | 1.23 | 1.00 | 1.23 |" in page and "| 50 | 0.25 |" in page
    assert "to the power of 1.09" in page and "`a command`, p; torch 2.0." in page


def test_one_case_is_measured(capsys, monkeypatch):
    monkeypatch.setitem(analyzer.CASES, "tiny", analyzer.Case(lambda: analyzer.Chain(2), torch.zeros(1, 3, 8, 8)))
    found = analyzer.measure_ratio("tiny", 1)
    assert found["model"] == "tiny" and found["ratio"] == pytest.approx(found["trace_s"] / found["export_s"], rel=0.1)
    assert found["operations"] > 10 and "ratio" in capsys.readouterr().out
