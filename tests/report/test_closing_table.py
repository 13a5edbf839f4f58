"""The closing table: exact numbers, aligned columns, nothing invented where a number is missing."""

from typing import Any

from tsn_toolkit.report.closing_table import summary_table

EXPECTED = """\
            accuracy                  bytes                        latency ms, batch 1
task         dense   store  exported  delta  exported  dense fp32  exported  dense fp32
---------------------------------------------------------------------------------------
digits-0-1  1.0000  0.9861    0.9861  5,210    21,345     152,040    0.0213      0.0298
digits-2-3  0.9861  0.9722    0.9722  3,120    21,346     152,040    0.0213      0.0298
digits-4-5  0.9861  0.9861    0.9861  2,987    21,347     152,040    0.0213      0.0298
digits-6-7  1.0000  1.0000    1.0000  2,890    21,348     152,040    0.0313      0.0298
digits-8-9  0.9577  0.9437    0.9296  2,755    21,349     152,040    0.0213      0.0298
---------------------------------------------------------------------------------------
mean        0.9860  0.9776    0.9748  3,392    21,347     152,040    0.0233      0.0298
"""


def test_the_table_of_a_whole_run(summary: dict[str, Any]) -> None:
    assert summary_table(summary).startswith(EXPECTED)


def test_totals_and_places(summary: dict[str, Any]) -> None:
    lines = summary_table(summary, folder="runs/digits").splitlines()
    assert "store: 17,885 bytes (17.5 KiB) for 5 tasks, every file counted" in lines
    assert "  separate dense fp32 models:             760,200 bytes  the store is 0.0235 of it" in lines
    assert "re-measured from the folder: acc 0.9776, bwt 0.0000" in lines
    assert lines[-4:] == [
        "store:    runs/digits/store",
        "packages: runs/digits/packages",
        "summary:  runs/digits/summary.json",
        "report:   runs/digits/report.html",
    ]


def test_what_later_tasks_changed_is_said(summary: dict[str, Any]) -> None:
    before = summary_table(summary, folder="runs/digits")
    assert "after the last one" not in before and "older revisions" not in before
    summary["R"][4][0], summary["superseded_bytes"] = 0.5, 12_000
    lines = summary_table(summary, folder="runs/digits").splitlines()
    assert "accuracy in the table is each task's when it was committed; acc is of all tasks after the last one" in lines
    assert "  of these 12,000 bytes are older revisions, which answer no more" in lines


def test_without_packages_no_folder_of_them_is_named(summary: dict[str, Any]) -> None:
    for entry in summary["tasks"]:
        entry["accuracy"]["exported"], entry["bytes"]["exported"], entry["latency_ms"] = {}, {}, {}
    assert [line.split(":")[0] for line in summary_table(summary, folder="run").splitlines()[-3:]] == ["store", "summary", "report"]
    assert "packages:" not in summary_table(summary, folder="run")


def test_a_missing_number_is_a_dash_and_leaves_no_mean(summary: dict[str, Any]) -> None:
    summary["tasks"][1]["accuracy"]["exported"] = {}
    summary["tasks"][1]["bytes"]["exported"] = {}
    summary["tasks"][1]["latency_ms"] = {}
    lines = summary_table({**summary, "tasks": summary["tasks"][:2]}).splitlines()
    assert lines[4].split() == ["digits-2-3", "0.9861", "0.9722", "-", "3,120", "-", "152,040", "-", "-"]
    assert lines[6].split() == ["mean", "0.9930", "0.9791", "-", "4,165", "-", "152,040", "-", "-"]


def test_two_targets_have_a_row_each(summary: dict[str, Any]) -> None:
    for entry in summary["tasks"]:
        entry["accuracy"]["exported"]["edge"] = 0.5
    lines = summary_table(summary).splitlines()
    assert lines[4].split() == ["digits-0-1", "edge", "1.0000", "0.9861", "0.5000", "5,210", "-", "152,040", "-", "-"]
    assert len({len(line) for line in lines[1:3]}) == 1
    assert lines[14].split()[:5] == ["mean", "cpu_onnxruntime", "0.9860", "0.9776", "0.9748"]
    assert lines[15].split()[:5] == ["mean", "edge", "0.9860", "0.9776", "0.5000"]


def test_an_empty_summary_is_a_head_only() -> None:
    lines = summary_table({}).splitlines()
    assert lines[1].split() == ["task", "dense", "store", "exported", "delta", "exported", "dense", "fp32", "exported", "dense", "fp32"]
    assert len(lines) == 3 and set(lines[2]) == {"-"}


def test_warnings_that_are_alike_take_one_line_and_three_lines_are_shown(summary: dict[str, Any]) -> None:
    names = [task["name"] for task in summary["tasks"]]
    summary["warnings"] = [f"{name}, {target}: takes {n}.5 ms" for target in ("a", "b", "c", "d", "e") for n, name in enumerate(names)]
    lines = [line for line in summary_table(summary).splitlines() if line.startswith("warning: ")]
    assert lines[:3] == [f"warning: {target}: takes 0.5 to 4.5 ms (5 tasks: {', '.join(names)})" for target in ("a", "b", "c")]
    assert lines[3:] == ["warning: and 2 more, all in summary.json and the report"]
