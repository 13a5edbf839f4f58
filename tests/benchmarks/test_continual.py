"""The command line of the comparison, without a run."""

import json

import pytest
from click.testing import CliRunner
from harness.benchmarks import variants_of
from harness.measured import settings_of

pytest.importorskip("matplotlib", reason="the plots need matplotlib: pip install 'tsn-toolkit[benchmarks]'")

from continual import main  # noqa: E402


@pytest.fixture
def call(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(main, [*arguments, "--results", str(tmp_path)] if arguments[0] != "list" else list(arguments))

    return run


def test_the_table_counts_lines_of_todays_settings_alone(call, make_line, tmp_path):
    finetune, er = (next(v for v in variants_of("permuted_mnist") if v.name == name) for name in ("finetune", "er"))
    lines = [
        make_line("finetune", isolation="none", acc=0.25, training_flops=1e9, settings_sha256=settings_of("permuted_mnist", finetune).digest),
        make_line("er", isolation="none", training_flops=1e9, settings_sha256="of another day"),
    ]
    assert settings_of("permuted_mnist", er) != settings_of("permuted_mnist_full", er)
    (tmp_path / "permuted_mnist.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    done = call("table", "permuted_mnist")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "permuted_mnist.md").read_text(encoding="utf-8")
    assert "| `finetune` | one network: nothing done against forgetting (lower bound) | 1 | 25.00 |" in page
    assert "`er`" not in page
    assert {path.name for path in tmp_path.glob("*.svg")} == {"permuted_mnist.svg", "permuted_mnist_tasks.svg"}


def test_without_a_line_there_is_no_table(call):
    done = call("table", "har_subjects")
    assert done.exit_code == 1
    assert "holds no result. Run `python benchmarks/continual.py all har_subjects` first." in done.output


def test_an_unknown_variant_is_refused_with_those_there_are(call):
    done = call("run", "permuted_mnist", "erk-05")
    assert done.exit_code == 2
    assert "permuted_mnist has no variant 'erk-05'; it has dense-cold, dense-cold-int8," in done.output


def test_class_incremental_learning_is_listed_where_tasks_have_classes_of_their_own(call):
    assert "sparcl-er-class" in call("list", "cifar100_10x10").output
    assert "class" not in "".join(line.split()[0] for line in call("list", "har_subjects").output.splitlines())
