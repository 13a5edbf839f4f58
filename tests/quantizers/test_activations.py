"""Integer reference: codes are the store's, ranges are deterministic, mismatches are named."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.contracts import ActivationRange
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic
from tsn_toolkit.quantizers.activations import IntegerModel, build_integer_model, calibrate_ranges
from tsn_toolkit.quantizers.brevitas_graph import quantize_graph

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402


@pytest.fixture(scope="module")
def task():
    return models.extracted_of(models.ResidualNet())


@pytest.fixture(scope="module")
def ranges(task):
    return calibrate_ranges(task.model, task.q, task.scale, [models.inputs(16), models.inputs(16, seed=2)])


def test_codes_are_the_stores_with_negative_gains_negated(task, ranges):
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    assert reference.mode == "graph"
    assert reference.negated == {"conv1": (0,), "conv2": (0,), "linear": ()}
    assert reference.requantized == {"conv1": (), "conv2": (), "linear": ()}
    for layer in ("conv1", "conv2"):
        assert np.array_equal(reference.codes[layer][0], -task.q[layer][0])
        assert np.array_equal(reference.codes[layer][1:], task.q[layer][1:])
    assert np.array_equal(reference.codes["linear"], task.q["linear"])


def test_folded_weight_is_scale_times_gain_over_deviation(task, ranges):
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    norm = task.model.bn1
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    expected = task.model.conv1.weight.detach() * factor.reshape(-1, 1, 1, 1)
    got = reference.module.conv1.quant_weight().value.detach()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-9)


def test_ranges_are_deterministic_and_hold_the_data(task, ranges):
    again = calibrate_ranges(copy.deepcopy(task.model), task.q, task.scale, [models.inputs(16), models.inputs(16, seed=2)])
    assert again == ranges and list(again) == list(ranges)
    widest = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(16)], percentile=1.0)
    assert widest["x_quant"].signed
    assert widest["x_quant"].scale == pytest.approx(float(models.inputs(16).abs().max()) / 127, rel=1e-6)
    x = models.inputs(16)
    first = torch.relu(task.model.bn1(task.model.conv1(x))).detach()
    second = torch.relu(task.model.bn2(task.model.conv2(first))).detach()
    assert not widest["relu"].signed
    assert widest["relu"].scale == pytest.approx(max(float(first.max()), float(second.max())) / 255, rel=1e-4)  # added, so one scale


def test_model_is_not_changed(task, ranges):
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_reference_is_near_the_float_model(task, ranges):
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    x = models.inputs(64, seed=9)
    with torch.no_grad():
        store, integer = task.model(x), reference(x)
    assert 10 * torch.log10(store.square().sum() / (store - integer).square().sum()) > 25


@pytest.mark.parametrize("gain", [0.0, 1e-14])
def test_vanished_gain_is_listed_and_harmless(gain):
    task = models.extracted_of(models.ResidualNet())
    with torch.no_grad():
        task.model.bn2.weight[3] = gain
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(16))
    assert reference.requantized["conv2"] == (3,)
    assert np.abs(reference.codes["conv2"][3]).max() <= 1
    x = models.inputs(32, seed=9)
    with torch.no_grad():
        error = (reference(x) - task.model(x)).abs().max()
        assert error < 0.2 * task.model(x).abs().max()


def test_negative_scale_of_the_store():
    task = models.extracted_of(models.ResidualNet())
    task.scale["linear"][2] *= -1
    with torch.no_grad():
        task.model.linear.weight[2] *= -1
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(4))
    assert reference.negated["linear"] == (2,)


def test_wrong_names_are_named(task, ranges):
    renamed = dict(ranges)
    renamed["elsewhere"] = renamed.pop("relu")
    with pytest.raises(ExportError, match=r"none for \['relu'\], no quantizer for \['elsewhere'\]"):
        build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=renamed)


def test_zero_scale_is_refused(task, ranges):
    with pytest.raises(ExportError, match=r"Range of `relu`.*scale=0\.0"):
        build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges={**ranges, "relu": ActivationRange(0.0, 0, False)})


def test_weight_that_is_not_scale_times_code(ranges):
    task = models.extracted_of(models.ResidualNet())
    with torch.no_grad():
        task.model.conv2.weight[0, 0, 0, 0] += 1
    with pytest.raises(ExportError, match="`conv2` is not scale \\* q: it differs by up to 1"):
        build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)


def test_layer_without_codes(task):
    with pytest.raises(ExportError, match=r"layers without codes \['linear'\]"):
        calibrate_ranges(task.model, {name: q for name, q in task.q.items() if name != "linear"}, task.scale, [models.inputs(1)])


def test_no_data_and_bad_percentile(task):
    with pytest.raises(ExportError, match="at least one batch"):
        calibrate_ranges(task.model, task.q, task.scale, [])
    with pytest.raises(ExportError, match=r"got 1\.5"):
        calibrate_ranges(task.model, task.q, task.scale, [models.inputs(1)], percentile=1.5)
    with pytest.raises(ExportError, match="batch 0 holds values that are not finite"):
        calibrate_ranges(task.model, task.q, task.scale, [models.inputs(1) * float("inf")])


class Branching(nn.Module):
    """Control flow on data: no graph can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x) if x.sum() > -1e9 else self.linear(-x)


def test_untraceable_model_falls_back_to_layers_and_says_so():
    found = quantize_graph(Branching().eval(), torch.randn(2, 4))
    assert found.mode == "layerwise"
    assert "graph mode failed" in found.notes[0]


class Sizes(nn.Module):
    """A layer that has no integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2)

    def forward(self, x):
        return self.up(x)


def test_unsupported_layer_is_named():
    model = Sizes().eval()
    q = {"up": np.zeros((3, 3, 2, 2), np.int8)}
    with pytest.raises(ExportError, match="`up` is a ConvTranspose2d"):
        build_integer_model(model, q, {"up": np.ones(3, np.float32)}, models.inputs(1))


class CalledRelu(nn.Module):
    """A residual net whose ReLUs are calls of a function, of nn.functional and of a method."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = (nn.functional.relu(self.conv2(x)) + x).relu()
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class ModuleRelu(CalledRelu):
    """The same function with nn.ReLU modules."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.first(self.conv1(x))
        x = self.third(self.second(self.conv2(x)) + x)
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_called_relus_are_quantized_like_modules():
    found = []
    for kind in (CalledRelu, ModuleRelu):
        task = models.extracted_of(kind())
        x = models.inputs(8)
        ranges = calibrate_ranges(task.model, task.q, task.scale, [x])
        reference = build_integer_model(task.model, task.q, task.scale, x[:1], ranges=ranges)
        outputs, arithmetic = interpret(OnnxRuntimeArithmetic(reference), x)
        assert arithmetic == "integer"
        found.append((len(ranges), outputs))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_what_an_artefact_holds_has_the_listed_signs_and_roundings():
    """Channel 1 is negated, channel 2 rounded anew, channel 3 both; a form with signed factors has the store's sign in all of them."""
    stored = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int8)
    codes = np.array([[1, 2], [-3, -4], [2, 3], [-4, -5]], np.int8)
    reference = SimpleNamespace(codes={"layer": codes}, negated={"layer": (1, 3)}, requantized={"layer": (2, 3)})
    np.testing.assert_array_equal(IntegerModel.exported(reference, "layer", stored), codes)
    unsigned = [[1, 2], [3, 4], [2, 3], [4, 5]]
    np.testing.assert_array_equal(IntegerModel.exported(reference, "layer", stored, negated=False), unsigned)
    assert stored.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]], "the store's own integers stay"
