"""One-shot pruning on a small network: what is removed is what is said, masks come before the test images, and the page holds the numbers."""

import json

import numpy as np
import one_shot
import pytest
import torch
from click.testing import CliRunner

from tsn_toolkit.graph import shrink, trace
from tsn_toolkit.models.small_cnn import small_cnn
from tsn_toolkit.trainer.norms import reestimate_norms_

SHARES = {"weights": (0.3, 0.9), "units": (0.4,)}


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    model = small_cnn(width=4, classes=3).eval()
    calibration, test = ((torch.randn(count, 1, 8, 8), torch.randint(0, 3, (count,))) for count in (40, 60))
    reestimate_norms_(model, [calibration[0]])
    return one_shot.Subject(model, trace(model, test[0]), calibration, test)


@pytest.fixture(scope="module")
def result(subject):
    return one_shot.measure(subject, ("bn_scale", "magnitude", "random", "wanda"), SHARES, normalisation="none", seed=0)


def test_every_setting_is_measured_once(result):
    settings = [(row["target"], row["criterion"], row["scope"], row["removed"]) for row in result["rows"]]
    assert len(settings) == len(set(settings)) == 2 * (2 + 2 + 3) + 4 * 2
    assert ("weights", "wanda", "row", 0.9) in settings and ("units", "wanda", "row", 0.4) not in settings
    assert not any(setting[:2] == ("weights", "bn_scale") for setting in settings)


def test_as_much_is_removed_as_was_asked_for(result):
    for row in result["rows"]:
        if row["scope"] == "global":
            assert row["removed_counted"] == pytest.approx(row["removed"], abs=0.03)
        assert 0 < row["macs_kept"] < 1 and 0 <= row["accuracy"] <= 1


def test_pruned_weights_are_zero_and_the_model_stays(subject):
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    kept = {layer.name: np.arange(np.prod(layer.shape)).reshape(layer.shape) % 2 == 0 for layer in subject.graph.layers}
    pruned = one_shot.prune(subject.model, subject.graph, "weights", kept)
    for name, mask in kept.items():
        assert torch.equal(pruned.get_submodule(name).weight, subject.model.get_submodule(name).weight * torch.from_numpy(mask))
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_a_row_of_units_says_what_the_shrunk_model_does(subject):
    """Accuracy of a really smaller network whose norms are averaged on the same images."""
    kept = {"conv1": np.array([True, False, True, True]), "conv2": np.arange(8) < 5}
    setting = one_shot.Setting("units", "by hand", "global", 0.4)
    row = one_shot.row_of(subject, setting, kept)
    small = shrink(subject.model, subject.graph, kept).model
    reestimate_norms_(small, [subject.calibration[0]])
    accuracy = float((small(subject.test[0]).argmax(1) == subject.test[1]).double().mean())
    assert row["accuracy"] == pytest.approx(accuracy, abs=1.01 / len(subject.test[1]))
    assert row["macs_kept"] == pytest.approx(trace(small, subject.test[0]).macs / subject.graph.macs, abs=1e-5)
    assert row["removed_counted"] == pytest.approx(4 / 12, abs=1e-5)


def test_all_masks_are_made_before_a_pruned_model_is_measured(subject, monkeypatch):
    events = []
    for name in ("timed_scores", "row_of"):
        original = getattr(one_shot, name)
        monkeypatch.setattr(one_shot, name, lambda *args, name=name, original=original: (events.append(name), original(*args))[1])
    one_shot.measure(subject, ("magnitude", "random"), {"weights": (0.5,), "units": (0.4,)}, normalisation="mean", seed=0)
    assert events == ["timed_scores"] * 4 + ["row_of"] * 8


def test_the_page_holds_mean_and_deviation_of_the_measured_numbers(result):
    def moved(row):
        return row | {"accuracy": row["accuracy"] + 0.02}

    about = {"command": "a command", "wall_s": 1.5, "versions": {"torch": "2.0"}, "processor": "p", "normalisation": "none", "left_out": {}}
    runs = [{"seed": 3, **result}, {"seed": 5, **result, "rows": [moved(row) for row in result["rows"]]}]
    page = one_shot.render({**about, "runs": runs})
    row = next(row for row in result["rows"] if (row["target"], row["criterion"], row["scope"], row["removed"]) == ("weights", "wanda", "row", 0.9))
    line = next(line for line in page.splitlines() if line.startswith("| wanda | row |"))
    assert line.split("|")[4].strip() == f"{100 * row['accuracy'] + 1:.1f} ± {2 / 2**0.5:.1f}"
    assert "`a command`" in page and "seeds 3, 5" in page and "torch 2.0" in page and "40 training images" in page


@pytest.mark.parametrize(
    ("option", "rule"), [("--seeds=0,x", "whole numbers separated by commas"), ("--criteria=nothing", "matches no criterion; there are")]
)
def test_wrong_options_are_one_message(option, rule):
    done = CliRunner().invoke(one_shot.main, [option])
    assert done.exit_code == 2 and rule in done.output


def test_missing_data_is_one_message(monkeypatch, tmp_path):
    monkeypatch.setenv("TSN_DATA", str(tmp_path))
    done = CliRunner().invoke(one_shot.main, ["--quick", "--threads", "1", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "distiller_resnet20_cifar100.pth does not exist" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.data
@pytest.mark.slow
def test_the_quick_run_on_the_checkpoint(tsn_data, tmp_path):
    threads = torch.get_num_threads()
    done = CliRunner().invoke(one_shot.main, ["--quick", "--seeds", "0", "--threads", "1", "--out", str(tmp_path)], catch_exceptions=False)
    torch.set_num_threads(threads)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "one_shot.json").read_text())
    (run,) = result["runs"]
    assert run["dense"]["as_trained"] > 0.6 and run["test_images"] == 256
    assert len(run["rows"]) == 2 * 2 + 1 + 2 * 2
    assert max(row["accuracy"] for row in run["rows"] if row["target"] == "weights") > 0.3
    assert (tmp_path / "one_shot.md").read_text().startswith("# One-shot pruning")
