"""ONNX for TensorRT: signed symmetric codes that mean what the store says, every rule of the linter, and packages that say they were not run."""

import json

import export_models as models
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import tsn_toolkit.export.tensorrt as exporter
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.delivery import BenchSettings, deliver
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.tensorrt_arithmetic import TensorRtArithmetic
from tsn_toolkit.export.tensorrt_rules import lint
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("gpu_tensorrt")
without_gpu = pytest.mark.skipif(not exporter.cannot_run(), reason="TensorRT and a CUDA device are here: packages are run")
with_gpu = pytest.mark.skipif(bool(exporter.cannot_run()), reason=exporter.cannot_run())


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1))
    return folder


@pytest.fixture
def proto(package):
    return onnx.load(package / "model.onnx")


def test_file_holds_signed_codes_and_float_biases(proto, task):
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    kinds = {array.dtype for array in arrays.values()}
    assert np.dtype(np.uint8) not in kinds and np.dtype(np.int32) not in kinds
    assert all(not array.any() for array in arrays.values() if array.dtype == np.int8 and array.ndim < 2)  # zero points
    for layer, codes in task.q.items():
        assert np.array_equal(np.abs(arrays[f"{layer}.weight"].astype(int)), np.abs(codes.astype(int)))
        assert arrays[f"{layer}.bias"].dtype == np.float32 and len(arrays[f"{layer}.bias"]) == len(codes)


def test_file_computes_what_the_reference_says(package, reference):
    """ONNX Runtime without its optimizer runs QuantizeLinear, Conv and DequantizeLinear one by one in floats, as ONNX defines them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(package / "model.onnx"), options, providers=["CPUExecutionProvider"])
    x = models.inputs(200, seed=5)
    got = session.run(None, {"input": x.numpy()})[0]
    expected, kind = interpret(TensorRtArithmetic(reference), x, batch_size=33)
    steps = np.abs(got - expected.numpy()) / read_manifest(package)["output_step"]
    assert kind == "integer" and steps.max() <= 1.01 and (steps > 0.5).mean() < 0.01
    assert len(np.unique(expected.numpy())) > 50


def test_unsigned_ranges_reach_as_far(proto, reference, ranges):
    unsigned = [found.scale for found in ranges.values() if not found.signed]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    scales = {float(arrays[node.input[1]]) for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert unsigned and all(min(abs(127 * scale - 255 * wanted) / wanted for scale in scales) < 1e-3 for wanted in unsigned)


def test_a_clean_file_has_no_violations_and_advice_about_sums(proto, package):
    findings = lint(proto, opset=17)
    assert findings.violations == () and len(findings.advice) == 1 and findings.advice[0].startswith("Add `")
    assert read_manifest(package)["notes"][-1] == findings.advice[0]


def tensor(proto, name):
    return next(found for found in proto.graph.initializer if found.name == name)


def replace(proto, name, array):
    tensor(proto, name).CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def node_of(proto, operation, index=0):
    return [node for node in proto.graph.node if node.op_type == operation][index]


def shift_zero_point(proto):
    replace(proto, node_of(proto, "QuantizeLinear").input[2], np.int8(3))
    return f"QuantizeLinear `{node_of(proto, 'QuantizeLinear').name}` has zero point 3"


def make_unsigned(proto):
    replace(proto, node_of(proto, "QuantizeLinear").input[2], np.uint8(0))
    return f"QuantizeLinear `{node_of(proto, 'QuantizeLinear').name}` has a zero point of type uint8"


def negate_scale(proto):
    node = node_of(proto, "QuantizeLinear", 1)
    replace(proto, node.input[1], -numpy_helper.to_array(tensor(proto, node.input[1])))
    return f"QuantizeLinear `{node.name}` has a scale that is not positive"


def scale_per_channel(proto):
    node = node_of(proto, "QuantizeLinear")
    replace(proto, node.input[1], np.full(3, 0.1, np.float32))
    return f"QuantizeLinear `{node.name}` has 3 scales for an activation"


def drop_zero_point(proto):
    del node_of(proto, "QuantizeLinear").input[2]
    return f"QuantizeLinear `{node_of(proto, 'QuantizeLinear').name}` has 2 inputs"


def float_input(proto):
    conv = node_of(proto, "Conv")
    conv.input[0] = "input"
    return "Conv `conv1::weight` has an input that no DequantizeLinear gives"


def float_weight(proto):
    node_of(proto, "Conv").input[1] = "w"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w"))
    return "Conv `conv1::weight` has a weight that no DequantizeLinear gives"


def integer_bias(proto):
    replace(proto, "conv1.bias", np.zeros(8, np.int32))
    return "Conv `conv1::weight` has a bias that is not a float32 constant"


def dequantized_bias(proto):
    proto.graph.initializer.extend([numpy_helper.from_array(np.zeros(8, np.int32), "b"), numpy_helper.from_array(np.float32(1), "s")])
    proto.graph.initializer.append(numpy_helper.from_array(np.int32(0), "z"))
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["b", "s", "z"], ["d"], name="bias_dq"))
    return "DequantizeLinear `bias_dq` dequantizes an int32 constant"


def weights_by_input(proto):
    node = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "conv1.weight")
    next(attribute for attribute in node.attribute if attribute.name == "axis").i = 1
    return "Conv `conv1::weight` has weight scales of size 8 along axis 1"


def unknown_operation(proto):
    node_of(proto, "Relu").op_type = "Hardmax"
    return f"Hardmax `{node_of(proto, 'Hardmax').name}` is not an operation"


def cubic_resize(proto):
    node_of(proto, "Relu").attribute.append(helper.make_attribute("mode", "cubic"))
    node_of(proto, "Relu").op_type = "Resize"
    return f"Resize `{node_of(proto, 'Resize').name}` resizes by cubic"


def codes_into_arithmetic(proto):
    node_of(proto, "Relu").input[0] = node_of(proto, "QuantizeLinear").output[0]
    return f"QuantizeLinear `{node_of(proto, 'QuantizeLinear').name}` is read by an operation that is no DequantizeLinear"


BREAKS = (shift_zero_point, make_unsigned, negate_scale, scale_per_channel, drop_zero_point, float_input, float_weight, integer_bias)
BREAKS += (dequantized_bias, weights_by_input, unknown_operation, cubic_resize, codes_into_arithmetic)


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_each_rule_names_the_node(proto, damage):
    sentence = damage(proto)
    assert any(violation.startswith(sentence) for violation in lint(proto, opset=17).violations), lint(proto, opset=17).violations


def test_opset_beyond_the_target(proto):
    assert lint(proto, opset=13).violations == ("opset 17 is beyond the target's 13",)


def test_a_file_that_breaks_a_rule_everywhere_names_the_first_and_counts_the_rest(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setattr(exporter, "lint", lambda proto, opset: exporter.Findings(tuple(f"node {index} is wrong" for index in range(11)), ()))
    with pytest.raises(ExportError) as caught:
        exporter._lint(tmp_path / "model.onnx", 17)
    assert str(caught.value).splitlines()[1:] == [*(f"- node {index} is wrong" for index in range(8)), "- and 3 more"]


def test_a_package_that_breaks_a_rule_is_refused(task, ranges, tmp_path, monkeypatch):
    """The exporter with a step that leaves an unsigned activation behind."""
    monkeypatch.setattr(exporter, "make_symmetric_", lambda proto, reference: None)
    with pytest.raises(ExportError, match=r"breaks TensorRT's rules.*(\n.*)*DequantizeLinear `.*` dequantizes an int32 constant"):
        write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1))
    assert list(tmp_path.iterdir()) == []


@without_gpu
def test_package_says_linted_not_run(package, task, reference):
    manifest = read_manifest(package)
    assert manifest["not_run"].startswith("linted, not run: ") and "tensorrt" not in manifest["versions"]
    assert "This package was linted, not run: " in (package / "README.md").read_text()
    parity = run_gates(package, task, reference, TARGET, models.inputs(48, seed=7), task.model(models.inputs(48, seed=7)).argmax(1))
    assert parity.not_run == manifest["not_run"] and parity.failures == ()
    assert np.isnan(parity.output_steps) and np.isnan(parity.accuracy) and parity.top1_agreement >= 0.9 and parity.sqnr_db > 20
    check = verify_package(package)
    assert check.not_run == manifest["not_run"] and check.output_steps is None and check.samples == 0
    assert check.passed is None and check.record()["passed"] is None
    assert bench_package(package)["not_run"] == manifest["not_run"]


@without_gpu
def test_delivery_without_a_gpu_claims_nothing(task, ranges, tmp_path):
    x = models.inputs(24, seed=3)
    split = Split(x, task.model(x).argmax(1))
    data = TaskData("task", (0, 1, 2, 3, 4), split, split, split)
    done = deliver(task, ranges, TARGET, tmp_path / "p", data=data, dense=task.model, bench=BenchSettings())
    assert done.parity["passed"] is None and done.parity["output_steps"] is None and done.parity["accuracy"] is None
    assert done.latency_ms == {} and "linted, not run" in done.warnings[0] and done.vendor_int8["skipped"].startswith("linted, not run")
    assert json.loads((tmp_path / "p" / "parity.json").read_text())["not_run"].startswith("linted, not run")


def test_changed_weight_fails_gate_a_without_a_run(package, task, reference, tmp_path):
    (tmp_path / "manifest.json").write_bytes((package / "manifest.json").read_bytes())
    model = onnx.load(package / "model.onnx")
    weight = numpy_helper.to_array(tensor(model, "linear.weight")).copy()
    weight[0, 0] ^= -128
    replace(model, "linear.weight", weight)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="layer `linear`, channels"):
        exporter.check_weights(tmp_path / "model.onnx", task, reference)


@with_gpu
def test_engine_passes_both_gates(package, task, reference):
    parity = run_gates(package, task, reference, TARGET, models.inputs(48, seed=7))
    assert parity.passed
    assert "largest difference to the recorded outputs" in models.readme_output(package)
