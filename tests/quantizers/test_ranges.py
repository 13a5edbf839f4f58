"""Ranges of activations by each rule, and attention: models on which Brevitas' graph mode would never end still get their integers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.quantizers.activations import build_integer_model
from tsn_toolkit.quantizers.ranges import calibrate_ranges

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402


@pytest.fixture(scope="module")
def task():
    return models.extracted_of(models.ResidualNet())


def batches():
    """Inputs of which one value is far out."""
    x = models.inputs(32)
    x[0, 0, 0, 0] = 40.0
    return [x[:16], x[16:]]


def test_the_largest_value_a_percentile_and_the_least_error_of_the_input(task):
    x = torch.cat(batches()).abs()
    found = {rule: calibrate_ranges(task.model, task.q, task.scale, batches(), rule=rule)["x_quant"].scale for rule in ("min_max", "mse")}
    assert found["min_max"] == pytest.approx(40.0 / 127, rel=1e-6)
    tried = np.linspace(0.02, 1, 800) * 40.0 / 127
    values = x.numpy().astype(np.float64).ravel()

    def error(step):
        return np.square(np.minimum(np.rint(values / step), 127) * step - values).sum()

    assert error(found["mse"]) <= 1.02 * min(error(step) for step in tried)
    assert found["mse"] < found["min_max"]
    half = calibrate_ranges(task.model, task.q, task.scale, batches(), percentile=0.5)["x_quant"].scale
    assert half == pytest.approx(max(float(part.abs().flatten().kthvalue(part.numel() // 2).values) for part in batches()) / 127, rel=1e-5)


@pytest.mark.parametrize("rule", ["min_max", "mse"])
def test_values_that_are_added_share_one_scale_and_the_ranges_fit_the_model(task, rule):
    ranges = calibrate_ranges(task.model, task.q, task.scale, batches(), rule=rule)
    assert list(ranges) == list(calibrate_ranges(task.model, task.q, task.scale, batches()))
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    x = models.inputs(64, seed=9)
    with torch.no_grad():
        store, integer = task.model(x), reference(x)
    assert 10 * torch.log10(store.square().sum() / (store - integer).square().sum()) > 20


def test_an_unknown_rule_is_refused(task):
    with pytest.raises(ExportError, match="`rule` must be one of min_max, percentile, mse, got 'entropy'"):
        calibrate_ranges(task.model, task.q, task.scale, batches(), rule="entropy")


class SmallTransformer(nn.Module):
    """Patches, two blocks of attention and a two-layer perceptron with residuals, mean over tokens, classifier."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width), "up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm1"](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
            x = x + block["out"]((weights @ v).transpose(1, 2).flatten(2))
            x = x + block["down"](nn.functional.gelu(block["up"](block["norm2"](x))))
        return self.head(x.mean(1))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("rule", ["percentile", "mse"])
def test_attention_is_calibrated_and_every_layer_has_integers(rule):
    task = models.extracted_of(SmallTransformer())
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(24, 16)], rule=rule)
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1, 16), ranges=ranges)
    assert reference.mode == "layerwise" and "norms and additions stay in float" in reference.notes[0]
    assert set(reference.codes) == set(task.q) and len(reference.codes) == 10
    x = models.inputs(64, 16, seed=9)
    with torch.no_grad():
        store, integer = task.model(x), reference(x)
    assert 10 * torch.log10(store.square().sum() / (store - integer).square().sum()) > 20


@pytest.mark.timeout(240)
def test_attention_leaves_as_a_package_that_answers_like_the_integer_reference(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from tsn_toolkit.export.package import write_package
    from tsn_toolkit.target import load_target
    from tsn_toolkit.verify.gates import run_gates

    task = models.extracted_of(SmallTransformer())
    x = models.inputs(40, 16, seed=5)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(64, 16)])
    target, measured = load_target("cpu_onnxruntime"), {}

    def measure(draft, artefact):
        measured["parity"] = run_gates(draft, task, artefact.reference, target, x)
        return {}

    write_package(task, ranges, target, tmp_path / "package", example_input=x[:1], measure=measure)
    assert measured["parity"].output_steps <= 1.0
    assert measured["parity"].sqnr_db > 15


def test_values_beyond_relu6_s_own_limit_keep_graph_mode():
    """Brevitas leaves the limit to the quantizer; a trained network reaches it, and all its layers must stay in integers."""
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), depthwise, nn.ReLU6(), nn.Flatten(), nn.Linear(512, 5))
    task, x = models.extracted_of(net), 20 * models.inputs(32)
    with torch.no_grad():
        assert float(task.model[0](x).max()) > 12
    ranges = calibrate_ranges(task.model, task.q, task.scale, [x])
    reference = build_integer_model(task.model, task.q, task.scale, x[:1], ranges=ranges)
    assert reference.mode == "graph"
    assert ranges["1"].scale == pytest.approx(6 / 255, rel=1e-6)
    with torch.no_grad():
        store, integer = task.model(x), reference(x)
    assert 10 * torch.log10(store.square().sum() / (store - integer).square().sum()) > 20
