"""The budget sweep on a small network: nobody takes more bytes than the budget, plans come before the test images, the page holds the numbers."""

import json

import budget
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from one_shot import Subject

from tsn_toolkit.graph import trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.plan.candidate import Candidate, Examiner, LayerOption
from tsn_toolkit.trainer.norms import reestimate_norms_

BUDGETS = ((4, 1.0), (2, 0.8))
OPTIONS = ((1.0, 4), (0.3, 4), (1.0, 1), (0.3, 1))
NAMES = ("conv1", "conv2", "conv3", "conv4")


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    model = small_cnn(width=16, classes=3).eval()
    calibration, test = ((torch.randn(count, 1, 8, 8), torch.randint(0, 3, (count,))) for count in (48, 64))
    reestimate_norms_(model, [calibration[0]])
    return Subject(model, trace(model, test[0][:1]), calibration, test)


@pytest.fixture(scope="module")
def result(subject):
    return budget.measure(subject, OPTIONS, BUDGETS, planning=32)


@pytest.fixture
def examiner(subject):
    return Examiner(subject.model, subject.graph, subject.calibration, budget._loss, max_code=127)


def test_every_method_at_every_budget_within_its_bytes(result):
    """A uniform network that would leave bytes unused is no comparison."""
    small, large = sorted({row["budget_bytes"] for row in result["rows"]})
    assert [row["method"] for row in result["rows"] if row["budget_bytes"] == large] == ["planner", "uniform, 4 bits"]
    assert [row["method"] for row in result["rows"] if row["budget_bytes"] == small] == ["planner", *(f"uniform, {n} bits" for n in (4, 3, 2))]
    assert all(row["bytes"] <= row["budget_bytes"] for row in result["rows"])
    assert [row["density"] for row in result["rows"] if row["budget_bytes"] == large and row["method"] != "planner"] == [1.0]
    assert result["passes"] == 1 + len(NAMES) * len(OPTIONS) and result["planning_images"] == 32
    assert result["calibration_images"] == 48 and result["test_images"] == 64


def test_the_gain_is_paired_by_image():
    right = np.array([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    rows = budget._rows([({"budget_bytes": 9, "method": name}, row) for name, row in zip(("planner", "uniform, 4 bits"), right, strict=True)])
    assert [row["accuracy"] for row in rows] == [0.75, 0.5] and "planner_gain" not in rows[0]
    assert rows[1]["planner_gain"] == 0.25 and rows[1]["standard_error"] == 0.25  # differences 0 1 0 0: deviation 1/2, of 4


def test_a_uniform_density_uses_the_bytes(examiner):
    """The next density of the bisection would not fit."""
    limit = 0.6 * budget.size_bytes(examiner, dict.fromkeys(NAMES, LayerOption(1.0, "element", 8)))
    layers = budget.uniform_density(examiner, NAMES, 8, limit)
    assert len(set(layers.values())) == 1 and layers["conv1"].bit_width == 8
    wider = LayerOption(layers["conv1"].density + 2.0**-budget.HALVINGS, "element", 8)
    assert budget.size_bytes(examiner, layers) <= limit < budget.size_bytes(examiner, dict.fromkeys(NAMES, wider))


def test_a_candidate_is_measured_with_norms_of_the_training_images(subject, examiner):
    candidate = Candidate({"conv3": LayerOption(0.2, "element", 2)})
    with examiner.applied(candidate) as model:
        reestimate_norms_(model, [subject.calibration[0]])
        expected = float((model(subject.test[0]).argmax(1) == subject.test[1]).double().mean())
    assert budget.correct(examiner, candidate, subject).mean() == pytest.approx(expected, abs=1e-9)
    assert torch.equal(examiner.model.conv3.weight, subject.model.conv3.weight)


def test_test_images_are_seen_after_all_plans(subject, monkeypatch):
    events = []
    for name in ("solve", "uniform_density", "correct"):
        original = getattr(budget, name)
        monkeypatch.setattr(budget, name, lambda *args, name=name, original=original: (events.append(name), original(*args))[1])
    budget.measure(subject, OPTIONS, BUDGETS, planning=32)
    assert events == ["solve", "uniform_density", "solve", *["uniform_density"] * 3, *["correct"] * (1 + 2 + 4)]


def test_the_page_and_the_plot_hold_the_measured_numbers(result, tmp_path):
    about = {"command": "a command", "seed": 3, "wall_s": 1.5, "processor_s": 2.5, "versions": {"torch": "2.0"}, "processor": "p"}
    page = budget.render({**result, **about})
    planner, uniform = result["rows"][:2]
    lines = [line.split("|") for line in page.splitlines() if line.startswith(f"| {planner['budget_bytes'] / 1000:.1f} |")]
    assert lines[0][2].strip() == f"{100 * planner['accuracy']:.1f}" and lines[0][3].strip() == f"{100 * uniform['accuracy']:.1f}"
    assert lines[1][2].strip() == f"{100 * uniform['planner_gain']:+.1f} ({100 * uniform['standard_error']:.1f})"
    for text in ("`a command`", "2.5 s of processor time", "seed 3", "torch 2.0", "32 training images", "48 training images", "64 test images"):
        assert text in page, text
    assert f"{planner['predicted']:.4f} / {planner['lower_bound']:.4f} / " in page
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        budget.draw(result, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes() and "uniform, 4 bits" in (tmp_path / "a.svg").read_text()


def test_missing_data_is_one_message(monkeypatch, tmp_path):
    monkeypatch.setenv("TSN_DATA", str(tmp_path))
    done = CliRunner().invoke(budget.main, ["--quick", "--threads", "1", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "distiller_resnet20_cifar100.pth does not exist" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.data
@pytest.mark.slow
def test_the_quick_run_on_the_checkpoint(tsn_data, tmp_path):
    threads = torch.get_num_threads()
    done = CliRunner().invoke(budget.main, ["--quick", "--threads", "1", "--out", str(tmp_path)], catch_exceptions=False)
    torch.set_num_threads(threads)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "budget.json").read_text())
    for limit in {row["budget_bytes"] for row in result["rows"]}:
        planner, *others = (row for row in result["rows"] if row["budget_bytes"] == limit)
        assert planner["method"] == "planner" and others and all(planner["divergence"] < row["divergence"] for row in others)
    assert (tmp_path / "budget.md").is_file() and (tmp_path / "budget.svg").is_file()
