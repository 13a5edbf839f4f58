"""The gates catch what they are for: a flipped bit in a weight, a wrong activation scale, a changed file, saturating kernels."""

import dataclasses
import json
from pathlib import Path

import export_models as models
import numpy as np
import onnx
import pytest

from tsn_toolkit.errors import GateError, TargetError
from tsn_toolkit.export.child import infer, known_runtimes
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.onnxruntime import export_dense_fp32, share_of
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import compare, output_steps, require_passed, run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("cpu_onnxruntime")


def flip_high_bit(folder: Path) -> None:
    """Flip bit 7 of one weight byte of linear."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "linear.weight")
    raw = bytearray(tensor.raw_data)
    raw[len(raw) // 2] ^= 0x80
    tensor.raw_data = bytes(raw)
    path.write_bytes(model.SerializeToString())


def test_good_package_passes_both_gates(task, package, reference):
    x = models.inputs(48, seed=7)
    labels = task.model(x).argmax(1)
    parity = run_gates(package, task, reference, TARGET, x, labels)
    assert parity.passed and parity.failures == ()
    assert parity.output_steps == 0.0 and parity.samples == 48
    assert parity.top1_agreement >= 0.97 and parity.sqnr_db > 25
    assert parity.accuracy == pytest.approx(parity.top1_agreement)


def test_flipped_weight_bit_fails_gate_a_even_when_rehashed(task, copy, reference):
    flip_high_bit(copy)
    with pytest.raises(GateError, match="`model.onnx` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    assert read_manifest(copy)["files"]["model.onnx"]["bytes"] > 0
    parity = run_gates(copy, task, reference, TARGET, models.inputs(16, seed=7))
    assert "Gate (a)" in parity.failures[0] and "layer `linear`, channels" in parity.failures[0]
    assert parity.output_steps > 1 and "Gate (a): artefact and integer reference differ by" in parity.failures[1]
    check = verify_package(copy)
    assert not check.passed and check.output_steps > 1 and "Gate (a)" in check.failures[0]


def test_wrong_activation_scale_fails_gate_b(task, ranges, tmp_path):
    wrong = {**ranges, "x_quant": dataclasses.replace(ranges["x_quant"], scale=ranges["x_quant"].scale / 8)}
    write_package(task, wrong, TARGET, tmp_path / "p", example_input=models.inputs(1))
    bad = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=wrong)
    parity = run_gates(tmp_path / "p", task, bad, TARGET, models.inputs(32, seed=7))
    assert parity.output_steps == 0.0
    assert not parity.passed and all("Gate (b)" in failure for failure in parity.failures)


def test_untouched_package_verifies(package):
    check = verify_package(package)
    assert check.passed and check.files == 3 and check.samples == 16 and check.output_steps == 0.0


def test_changed_and_missing_files_are_named(copy):
    readme = bytearray((copy / "README.md").read_bytes())
    readme[5] ^= 1
    (copy / "README.md").write_bytes(readme)
    with pytest.raises(GateError, match=r"`README\.md` has sha256"):
        verify_package(copy)
    (copy / "README.md").unlink()
    with pytest.raises(GateError, match=r"`README\.md` is missing"):
        verify_package(copy)


@pytest.mark.slow
def test_whole_resnet20_runs_in_integer_kernels_exactly(tmp_path):
    task = models.extracted_of(models.ResNet20())
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(16, 32)])
    write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1, 32), options=PackageOptions(golden_samples=4))
    assert verify_package(tmp_path / "p").output_steps == 0.0
    share = integer_share(tmp_path / "p")
    assert share.operations["QLinearConv"] == 22 and share.operations["QLinearAdd"] == 9 and share.operations["QGemm"] == 1
    assert share.share == 1.0 and share.stays_float == ()
    stem, first = 64 * 32 * 32 * 27, 16 * 32 * 32 * (64 * 9 + 64 + 5 * 16 * 9)
    second, third = 32 * 16 * 16 * (16 * 9 + 16 + 5 * 32 * 9), 64 * 8 * 8 * (32 * 9 + 32 + 5 * 64 * 9)
    assert share.macs == stem + first + second + third + 256 * 10


def test_share_counts_float_work():
    def event(name, operation, shape, kind):
        shapes = [{kind: shape}]
        return {"name": f"{name}_kernel_time", "args": {"op_name": operation, "output_type_shape": shapes, "input_type_shape": shapes}}

    events = [event("a::weight_token_1", "QLinearConv", [1, 4, 2, 2], "uint8"), event("b::weight", "Gemm", [1, 3], "float")]
    share = share_of(events, {"a": [4, 2, 3, 3], "b": [3, 16]})
    assert (share.integer_macs, share.macs) == (16 * 18, 16 * 18 + 48)
    assert share.stays_float == ("Gemm b::weight",)
    assert share_of([event("fused b::weight", "Gemm", [1, 3], "float")], {"b": [3, 16]}).macs == 48
    with pytest.raises(GateError, match="Node `c` of"):
        share_of([event("c", "Conv", [1, 1], "float")], {"a": [1, 1]})


def test_share_counts_products_of_activations():
    """(2, 5, 3) times (2, 3, 4): 2 * 5 * 4 sums of 3 products; with the first factor read transposed, the same."""

    def event(name, operation, first, second, result):
        types = {"input_type_shape": [{"float": first}, {"float": second}], "output_type_shape": [{"float": result}]}
        return {"name": f"{name}_kernel_time", "args": {"op_name": operation, **types}}

    layer = event("a::weight", "MatMulIntegerToFloat", [1, 5, 3], [3, 6], [1, 5, 6])
    for first in ([1, 2, 5, 3], [1, 2, 3, 5]):
        share = share_of([layer, event("m", "FusedMatMul", first, [1, 2, 3, 4], [1, 2, 5, 4])], {"a": [6, 3]})
        assert (share.integer_macs, share.macs) == (5 * 6 * 3, 5 * 6 * 3 + 2 * 5 * 4 * 3)
        assert "FusedMatMul m" in share.stays_float
    with pytest.raises(GateError, match="Node `m` of"):
        share_of([event("m", "MatMul", [1, 5, 3], [3, 6], [1, 5, 6])], {"a": [6, 3]})


def test_compare_by_hand():
    store = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    integer = np.array([[1.0, 0.0], [0.6, 0.5]], np.float32)
    artefact = integer + np.array([[0.0, 0.0], [0.0, 0.3]], np.float32)
    parity = compare(artefact, integer, store, step=0.1, target=TARGET, accuracy=0.5)
    assert parity.output_steps == pytest.approx(3.0) and parity.top1_agreement == 0.5
    assert parity.sqnr_db == pytest.approx(10 * np.log10(2 / (0.36 + 0.25)), abs=1e-4)
    assert len(parity.failures) == 3
    assert compare(store, store, store, step=0.1, target=TARGET, accuracy=1.0).passed
    assert output_steps(np.full((1, 2), np.nan, np.float32), np.zeros((1, 2), np.float32), 0.1) == float("inf")


def test_a_refused_package_says_what_to_do():
    store = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    require_passed(compare(store, store, store, step=0.1, target=TARGET, accuracy=1.0), "a", "here")
    with pytest.raises(GateError, match=r"task `a`, target `here`: Gate \(b\): top-1 .*`post_training.ranges`.*such as cpu_torch\.$") as caught:
        require_passed(compare(-store, -store, store, step=0.1, target=TARGET, accuracy=0.0), "a", "here")
    assert "install a release" not in str(caught.value)
    with pytest.raises(GateError, match=r"Gate \(a\): artefact .* Gate \(b\).* install a release that the target was run with .*cpu_torch"):
        require_passed(compare(store, -store, store, step=0.1, target=TARGET, accuracy=0.0), "a", "here")


def test_no_samples_and_unknown_runtime(package, task, reference):
    with pytest.raises(GateError, match="got 0"):
        run_gates(package, task, reference, TARGET, models.inputs(0))
    with pytest.raises(TargetError, match="'onnxruntim' has no runner.*'onnxruntime'"):
        infer(package / "model.onnx", np.zeros((1, 3, 8, 8), np.float32), runtime="onnxruntim", options={})
    assert {"onnxruntime", "openvino", "torch"} <= set(known_runtimes())


def test_broken_model_says_so(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(GateError, match=r"model\.onnx` does not run in onnxruntime"):
        infer(tmp_path / "model.onnx", np.zeros((1, 3), np.float32), runtime="onnxruntime", options={})


def test_dense_fp32_equals_torch(task, tmp_path):
    path = tmp_path / "dense.onnx"
    x = models.inputs(4, seed=3)
    export_dense_fp32(task.model, x, path)
    got = infer(path, x.numpy(), runtime="onnxruntime", options={})
    assert np.allclose(got, task.model(x).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_manifest_of_another_schema(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(GateError, match="got 99"):
        verify_package(copy)
