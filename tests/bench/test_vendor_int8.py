"""The vendor's int8 of the dense model: really int8, near the float model, timed beside the package, skipped with a reason."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import tsn_toolkit.bench.vendor_int8 as vendor_module
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.bench.vendor_int8 import vendor_accuracy, vendor_int8
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.delivery import BenchSettings, deliver
from tsn_toolkit.export.child import infer
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402

TARGET = load_target("cpu_onnxruntime_no_vnni")


@pytest.fixture(scope="module")
def dense():
    return models.extracted_of(models.ResidualNet(16)).model


@pytest.fixture(scope="module")
def baseline(dense, tmp_path_factory):
    return vendor_int8(dense, models.inputs(64).numpy(), TARGET, tmp_path_factory.mktemp("vendor"))


def test_weights_are_int8_per_channel_and_within_seven_bits_without_vnni(baseline, monkeypatch, dense, tmp_path):
    weights = int8_weights(baseline.model)
    assert baseline.size_bytes == baseline.model.stat().st_size and baseline.tool.startswith("onnxruntime.quantization")
    assert len(weights) == 3 and max(np.abs(weight.astype(int)).max() for weight in weights) == (64 if baseline.seven_bit_weights else 127)
    assert all((np.abs(weight.astype(int)).max(axis=tuple(range(1, weight.ndim))) >= 60).all() for weight in weights if weight.ndim == 4)
    monkeypatch.setattr(vendor_module, "processor_has_vnni", lambda: baseline.seven_bit_weights)
    other = vendor_int8(dense, models.inputs(64).numpy(), TARGET, tmp_path)
    assert {other.seven_bit_weights, baseline.seven_bit_weights} == {True, False}
    assert max(np.abs(weight.astype(int)).max() for weight in int8_weights(other.model)) == (64 if other.seven_bit_weights else 127)


def int8_weights(path):
    """All INT8 weights of an ONNX file."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]


def test_answers_like_the_dense_model(baseline, dense):
    x = models.inputs(60, seed=5)
    wanted = dense(x).detach().numpy()
    got = infer(baseline.model, x.numpy(), runtime="onnxruntime", options={})
    noise = np.square(got - wanted).sum() / np.square(wanted).sum()
    assert 1e-6 < noise < 1e-2  # quantized, and well
    labels = wanted.argmax(1)
    assert vendor_accuracy(baseline, TARGET, x.numpy(), labels) == pytest.approx((got.argmax(1) == labels).mean())


def test_is_timed_beside_the_package(baseline, dense, tmp_path):
    task = models.with_smaller_codes(models.extracted_of(models.ResidualNet()))
    x = models.inputs(24, seed=3)
    split = Split(x, task.model(x).argmax(1))
    data = TaskData("task", (0, 1, 2, 3, 4), split, split, split)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [x])
    settings = BenchSettings(batches=(1,), seconds=0.04)
    done = deliver(task, ranges, TARGET, tmp_path / "p", data=data, dense=dense, bench=settings)
    numbers = done.latency_ms["batch_1"]
    assert numbers["speedup_over_vendor_int8"] == numbers["vendor_int8_median"] / numbers["median"]
    assert 0 <= done.vendor_int8["accuracy"] <= 1 and done.vendor_int8["bytes"] > 0
    again = bench_package(tmp_path / "p", vendor_int8=baseline.model, batches=(1,), seconds=0.04, rounds=1)
    assert "speedup" not in again["batch_1"] and again["batch_1"]["vendor_int8_calls"] >= 3


def test_without_a_tool_the_reason_is_given(dense, tmp_path, monkeypatch):
    torch_target = load_target("cpu_torch")
    found = vendor_int8(dense, models.inputs(2).numpy(), torch_target, tmp_path)
    assert found.model is None and found.skipped == "torch has no int8 quantizer of its own for this target"
    assert vendor_accuracy(found, torch_target, models.inputs(2).numpy(), np.zeros(2, np.int64)) is None
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest))
    missing = vendor_int8(dense, models.inputs(2).numpy(), load_target("cpu_openvino"), tmp_path)
    assert missing.skipped == "nncf is not installed; install it: pip install nncf"


def test_a_model_that_the_tool_refuses_is_skipped_with_its_words(dense, tmp_path):
    found = vendor_int8(dense, models.inputs(0).numpy().reshape(0, 3, 8, 8), TARGET, tmp_path)
    assert found.model is None and found.skipped


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is not installed")
def test_nncf_answers_like_the_dense_model(dense, tmp_path):
    target = load_target("cpu_openvino")
    baseline = vendor_int8(dense, models.inputs(32).numpy(), target, tmp_path)
    x = models.inputs(40, seed=5)
    wanted = dense(x).detach().numpy()
    got = infer(baseline.model, x.numpy(), runtime="openvino", options={})
    assert 1e-6 < np.square(got - wanted).sum() / np.square(wanted).sum() < 1e-2
