"""Integer packages in OpenVINO: its own arithmetic, its own account of integer kernels, and what the gates catch."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import export_models as models
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tsn_toolkit.export.openvino as exporter
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.delivery import BenchSettings, deliver
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.openvino_arithmetic import OpenVinoArithmetic
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.processor import processor_has_vnni
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("cpu_openvino")
installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")


class Blocks(nn.Module):
    """One block with a projection and one without, so that both ways of fusing an addition occur; codes of the last sum are the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second = models.Block(8, 16, 1, True), models.Block(16, 16, 1, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(F.relu(self.bn1(self.conv1(x)))))))


def packed(module: nn.Module, folder: Path, size: int = 8, seed: int = 0):
    """(task, ranges) of a module with codes of at most 63, and its package in `folder`."""
    task = models.with_smaller_codes(models.extracted_of(module, seed))
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(32, size)])
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1, size), options=PackageOptions(golden_samples=4))
    return task, ranges


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    folder = tmp_path_factory.mktemp("packages") / "residual"
    return folder, *packed(models.ResidualNet(), folder)


@pytest.fixture(scope="module")
def package(made):
    return made[0]


@pytest.fixture(scope="module")
def task(made):
    return made[1]


@pytest.fixture(scope="module")
def reference(made):
    return build_integer_model(made[1].model, made[1].q, made[1].scale, models.inputs(1), ranges=made[2])


@pytest.fixture
def copy(package, tmp_path):
    return Path(shutil.copytree(package, tmp_path / "copy"))


def test_package_passes_both_gates(package, task, reference):
    x = models.inputs(48, seed=7)
    parity = run_gates(package, task, reference, TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps == 0.0 and parity.sqnr_db > 25
    assert verify_package(package).passed
    assert read_manifest(package)["arithmetic"] == "integer"


def test_every_multiply_accumulate_is_in_an_integer_kernel(package):
    share = integer_share(package)
    assert share.share == 1.0 and share.stays_float == ()
    assert share.macs == 8 * 64 * 27 + 8 * 64 * 72 + 32 * 5


@installed
def test_additions_inside_convolutions_skip_one_rounding(tmp_path):
    """The codes of a sum equal the reference with the fused additions, and not the one that rounds both operands."""
    task, ranges = packed(Blocks(), tmp_path / "p", size=12)
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1, 12), ranges=ranges)
    x = models.inputs(50, 12, seed=5)
    got = infer(tmp_path / "p" / "model.onnx", x.numpy(), runtime="openvino", options=exporter.session_options({}))
    wrong = {}
    for fusion in ("first", "none"):
        expected, kind = interpret(OpenVinoArithmetic(reference, fusion), x)
        assert kind == "integer"
        wrong[fusion] = float((np.abs(got - expected.numpy()) > 1e-3 * np.abs(got).max()).mean())
    assert wrong["first"] < 1e-4 and wrong["none"] > 0.05


@installed
@pytest.mark.slow
def test_resnet20_stays_within_the_bound(tmp_path):
    task, ranges = packed(models.ResNet20(), tmp_path / "p", size=32)
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1, 32), ranges=ranges)
    parity = run_gates(tmp_path / "p", task, reference, TARGET, models.inputs(50, 32, seed=7))
    assert parity.passed and parity.output_steps <= 2.0
    share = integer_share(tmp_path / "p")
    assert share.share == 1.0 and share.operations["Convolution"] == 22


@installed
@pytest.mark.skipif(processor_has_vnni(), reason="with VNNI the kernels are exact for all codes")
def test_saturating_kernels_fail_gate_a(tmp_path):
    """What `max_code` of the target is for."""
    target = TARGET.model_copy(update={"max_code": 127})
    task = models.extracted_of(models.ResidualNet())
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(32)])
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)
    write_package(task, ranges, target, tmp_path / "p", example_input=models.inputs(1))
    parity = run_gates(tmp_path / "p", task, reference, target, models.inputs(32, seed=7))
    assert parity.output_steps > 5 and "Gate (a)" in parity.failures[0]


def test_flipped_weight_bit_fails_gate_a_even_when_rehashed(copy, task, reference):
    model = onnx.load(copy / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "linear.weight")
    raw = bytearray(tensor.raw_data)
    raw[len(raw) // 2] ^= 0x80
    tensor.raw_data = bytes(raw)
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GateError, match="`model.onnx` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    parity = run_gates(copy, task, reference, TARGET, models.inputs(16, seed=7))
    assert "layer `linear`, channels" in parity.failures[0]
    assert parity.output_steps > 1 and "Gate (a): artefact and integer reference differ by" in parity.failures[1]
    assert not verify_package(copy).passed


def test_wrong_activation_scale_fails_gate_b(made, tmp_path):
    _, task, ranges = made
    wrong = {**ranges, "x_quant": dataclasses.replace(ranges["x_quant"], scale=ranges["x_quant"].scale / 8)}
    write_package(task, wrong, TARGET, tmp_path / "p", example_input=models.inputs(1))
    bad = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=wrong)
    parity = run_gates(tmp_path / "p", task, bad, TARGET, models.inputs(32, seed=7))
    assert parity.output_steps <= TARGET.gates.output_steps and not parity.passed and all("Gate (b)" in failure for failure in parity.failures)


def test_readme_code_runs(package):
    assert "largest difference to the recorded outputs: 0.000 output steps" in models.readme_output(package)
    assert "lie in [-63, 63]" in (package / "README.md").read_text()


def test_benchmark_beside_dense(package, task, tmp_path):
    exporter.export_dense_fp32(task.model, models.inputs(1), tmp_path / "dense.onnx")
    result = bench_package(package, dense_fp32=tmp_path / "dense.onnx", batches=(1, 2), seconds=0.1, rounds=1)
    assert result["runtime"] == "openvino" and 0 < result["batch_1"]["median"] and 0 < result["batch_1"]["dense_fp32_median"]


def test_share_counts_float_work():
    def node(name, operation, precision, shape, layers):
        return {"name": name, "operation": operation, "precision": precision, "output_shape": shape, "layers": layers}

    nodes = [
        node("c", "Convolution", "u8", [1, 4, 2, 2], ["Multiply_7", "a::weight/WithoutBiases", "a::weight"]),
        node("f", "FullyConnected", "f32", [1, 3], ["b::weight"]),
        node("q", "FakeQuantize", "f32", [1, 3], ["x/QuantizeLinear"]),
        node("s", "Subgraph", "f32", [1, 3], ["x/DequantizeLinear"]),
        node("e", "Eltwise", "f32", [1, 3], ["Add_1"]),
    ]
    share = exporter.share_of(nodes, {"a": [4, 2, 3, 3], "b": [3, 16]})
    assert (share.integer_macs, share.macs) == (16 * 18, 16 * 18 + 48)
    assert share.stays_float == ("FullyConnected f", "Eltwise e") and share.operations["Subgraph"] == 1
    attention = node("m", "MatMul", "f32", [1, 2, 5, 4], ["/MatMul"])
    share = exporter.share_of([*nodes, attention], {"a": [4, 2, 3, 3], "b": [3, 16]}, least_macs=1000)
    assert (share.integer_macs, share.macs, share.stays_float[-1]) == (16 * 18, 1000, "MatMul m")
    with pytest.raises(GateError, match="Node `c` of"):
        exporter.share_of([node("c", "Convolution", "f32", [1, 1], ["c"])], {"a": [1, 1]})
    with pytest.raises(GateError, match="holds no convolution"):
        exporter.share_of([], {})


@installed
def test_codes_beyond_the_target_are_refused(tmp_path):
    task = models.extracted_of(models.ResidualNet())
    with pytest.raises(ExportError, match="magnitude 127; target `cpu_openvino` allows at most 63"):
        write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))


def test_missing_runtime_names_its_install_line(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest))
    task = models.with_smaller_codes(models.extracted_of(models.ResidualNet()))
    with pytest.raises(TargetError, match="Target `cpu_openvino` needs openvino, which is not installed. Install it: pip install openvino"):
        write_package(task, {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
    assert list(tmp_path.iterdir()) == []


@installed
def test_delivery_measures_and_counts(made, tmp_path):
    """The whole way of a package: both gates, share, benchmark, and the size of the file that the manifest names."""
    _, task, ranges = made
    x = models.inputs(24, seed=3)
    split = Split(x, task.model(x).argmax(1))
    data = TaskData("task", (0, 1, 2, 3, 4), split, split, split)
    bench = BenchSettings(batches=(1,), seconds=0.04)
    done = deliver(task, ranges, TARGET, tmp_path / "p", data=data, dense=models.ResidualNet(16).eval(), bench=bench)
    assert done.parity["passed"] and done.parity["integer_mac_share"] == 1.0
    assert done.model_bytes == (tmp_path / "p" / "model.onnx").stat().st_size
    assert done.latency_ms["batch_1"]["dense_fp32_median"] > 0
    assert {"parity.json", "bench.json"} <= set(read_manifest(tmp_path / "p")["files"])
