"""One line for what several tasks are warned of, and nothing folded that says something else."""

import pytest

from tsn_toolkit.report.folded_warnings import folded_warnings

TASKS = [{"name": name} for name in ("digits-0", "digits-0-1", "other")]


def warning(task, target, batch, mine, dense):
    return f"{task}, {target}: batch {batch}: int8 takes {mine} ms, dense fp32 {dense} ms; likely reason: the model has only 1,236,992 MACs."


def test_numbers_become_ranges_and_tasks_a_list():
    warnings = [warning(task, "cpu", 1, mine, "0.15") for task, mine in (("other", "0.213"), ("digits-0", "12"), ("digits-0-1", "9.5"))]
    assert folded_warnings({"tasks": TASKS, "warnings": warnings}) == [
        "cpu: batch 1: int8 takes 0.213 to 12 ms, dense fp32 0.15 ms; likely reason: the model has only 1,236,992 MACs. "
        "(3 tasks: other, digits-0, digits-0-1)"
    ]


def test_another_batch_target_or_reason_stays_another_line():
    warnings = [warning("other", target, batch, "2", "1") for target in ("cpu", "gpu") for batch in (1, 32)]
    warnings += [warning("digits-0", "cpu", 32, "2", "1.5"), warning("digits-0", "cpu", 1, "2", "1").replace("992 MACs", "993 MACs")]
    found = folded_warnings({"tasks": TASKS, "warnings": warnings})
    assert found[:1] + found[2:] == [warnings[0], *warnings[2:4], warnings[5]]
    assert found[1].startswith("cpu: batch 32: int8 takes 2 ms, dense fp32 1 to 1.5 ms;") and found[1].endswith("(2 tasks: other, digits-0)")


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [(("1,024", "999"), "999 to 1,024"), (("1.2e+03", "980"), "980 to 1.2e+03"), (("0.1", "0.1"), "0.1"), (("10", "9"), "9 to 10")],
)
def test_ranges_go_by_size_and_keep_what_was_written(numbers, expected):
    warnings = [f"{task['name']}, cpu: takes {number} ms" for task, number in zip(TASKS, numbers, strict=False)]
    assert folded_warnings({"tasks": TASKS, "warnings": warnings}) == [f"cpu: takes {expected} ms (2 tasks: digits-0, digits-0-1)"]


def test_a_task_that_is_warned_twice_is_named_once():
    warnings = [warning("other", "cpu", 1, "2", "1"), warning("other", "cpu", 1, "3", "1")]
    (line,) = folded_warnings({"tasks": TASKS, "warnings": warnings})
    assert "takes 2 to 3 ms" in line and line.endswith("(1 task: other)")


def test_warnings_of_no_task_are_not_folded_with_those_of_one():
    warnings = ["cpu: slow", "other, cpu: slow", "cpu: takes 2.5 ms", "other, cpu: takes 2.5 ms", "cpu: takes 3.5 ms", "digits-00, cpu: takes 2.5 ms"]
    assert folded_warnings({"tasks": TASKS, "warnings": warnings}) == warnings


@pytest.mark.parametrize("summary", [{}, {"warnings": None, "tasks": None}, {"tasks": [{}], "warnings": []}])
def test_nothing_is_warned_of(summary):
    assert folded_warnings(summary) == []


def test_a_name_with_signs_of_a_pattern_is_a_name():
    names = ["a.b (1.5 ms)", "a+b"]
    warnings = [f"{name}, cpu: takes {n}.5 ms" for n, name in enumerate(names)]
    assert folded_warnings({"tasks": [{"name": name} for name in names], "warnings": warnings}) == [
        "cpu: takes 0.5 to 1.5 ms (2 tasks: a.b (1.5 ms), a+b)"
    ]


def test_the_longest_name_is_meant():
    warnings = ["a, cpu: slow", "a, b, cpu: slow"]
    assert folded_warnings({"tasks": [{"name": "a"}, {"name": "a, b"}], "warnings": warnings}) == ["cpu: slow (2 tasks: a, a, b)"]
