"""The table of variants that are not told the task, from made-up lines."""

import pytest
from harness.benchmarks import variants_of
from harness.strategies import is_told_the_task
from harness.table import render_table
from harness.unnamed import without_task_names
from harness.verdict import checks


@pytest.fixture
def lines(make_line):
    found = {"rule": "one-shot", "batch": 128, "acc_told": 0.9, "task_found": 0.75}
    return {
        "supsup": [make_line("supsup", seed, acc=0.9, isolation="exact") for seed in (0, 1)],
        "supsup-inferred": [make_line("supsup-inferred", seed, acc=0.8, bwt=-0.05, isolation="exact", task_inference=found) for seed in (0, 1)],
        "er-domain": [make_line("er-domain", acc=0.6, bwt=-0.1, fwt=0.2, isolation="none")],
    }


def test_a_row_stands_beside_the_strategy_that_is_told(lines):
    heading, _, table = without_task_names(lines)
    assert heading == "## Without the task's name"
    _, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert rows == [
        ["`supsup-inferred`", "2", "80.00 ± 0.00", "-10.00 ± 0.00", "75.0", "-5.00 ± 0.00", ""],
        ["`er-domain`", "1", "60.00", "", "", "-10.00", "20.00"],
    ]
    assert without_task_names({"supsup": lines["supsup"]}) == []


def test_accuracy_without_the_name_is_no_claim_about_forgetting(lines):
    (check,) = [check for check in checks(lines) if "bwt is exactly 0" in check.claim]
    assert check.outcome == "holds", "a task that is mistaken for a later one has not changed"


def test_the_front_is_of_one_setting(make_line):
    lines = {name: [make_line(name, acc=acc, training_flops=1e9)] for name, acc in (("er", 0.7), ("er-domain", 0.8))}
    starred = [row.split("|")[1].strip() for row in render_table("har_subjects", lines).splitlines() if row.endswith("| * |")]
    assert starred == ["`er`"]


@pytest.mark.parametrize(("benchmark", "ending"), [("har_subjects", "-domain"), ("permuted_mnist", "-domain"), ("cifar100_10x10", "-class")])
def test_a_benchmark_has_the_setting_of_its_classes(benchmark, ending):
    unnamed = {variant.name for variant in variants_of(benchmark) if not is_told_the_task(variant.name)}
    assert unnamed == {f"{name}{ending}" for name in ("finetune", "er", "sparcl-er")} | {
        f"{name}-inferred" for name in ("supsup", "wsn-30", "tsn-30")
    }
