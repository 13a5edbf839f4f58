"""ExecuTorch packages: the store's integers in XNNPACK's kernels, both gates, and what they catch."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import export_models as models
import numpy as np
import pytest
import torch
from torch import nn

import tsn_toolkit.export.executorch as exporter
from tsn_toolkit.bench.vendor_int8 import vendor_int8
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.artefact import ExportRequest
from tsn_toolkit.export.child import infer, latencies_ms
from tsn_toolkit.export.executorch_program import Node, ProgramContents
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.rehearsal import check_exportable
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("edge_executorch_xnnpack")
installed = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="ExecuTorch is not installed")


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):
    pytest.importorskip("executorch", reason="ExecuTorch is not installed")
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1), options=PackageOptions(golden_samples=8))
    return folder


def test_package_passes_both_gates(package, task, reference):
    x = models.inputs(exporter.LARGEST_BATCH + 1, seed=7)
    parity = run_gates(package, task, reference, TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps <= 1 and parity.top1_agreement >= 0.9
    assert verify_package(package).passed
    manifest = read_manifest(package)
    assert manifest["arithmetic"] == "integer" and manifest["versions"]["executorch"] and manifest["not_run"] == ""
    assert sum(manifest["bytes_by_part"].values()) == (package / "model.pte").stat().st_size
    assert manifest["bytes_by_part"]["weights"] == sum(codes.size for codes in task.q.values())


def test_readme_code_runs(package):
    assert "largest difference to the recorded outputs" in models.readme_output(package)


def test_calls_are_timed(package):
    times = latencies_ms(
        package / "model.pte", models.inputs(2).numpy(), runtime="executorch", options={}, threads=1, seconds=0.02, warmup_seconds=0.01
    )
    assert len(times) >= 3 and min(times) > 0


def test_every_multiply_accumulate_is_in_an_integer_kernel(package):
    share = integer_share(package)
    assert share.share == 1.0 and share.stays_float == ("AvgPooling2d",)
    assert share.macs == 8 * 64 * 27 + 8 * 64 * 72 + 32 * 5
    assert share.operations["Conv2d"] == 2 and share.operations["Add"] == 1


def test_flipped_weight_bit_fails_gate_a_even_when_rehashed(package, task, reference, tmp_path):
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    content = bytearray((copy / "model.pte").read_bytes())
    codes = np.ascontiguousarray(reference.codes["linear"])
    content[content.index(codes.tobytes()) + codes.size // 2] ^= 0x80
    (copy / "model.pte").write_bytes(content)
    with pytest.raises(GateError, match="`model.pte` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    parity = run_gates(copy, task, reference, TARGET, models.inputs(16, seed=7))
    assert "does not hold the store's integers of layer `linear`" in parity.failures[0] and parity.output_steps > 1
    assert not verify_package(copy).passed


def test_weights_of_another_task_and_damaged_files_are_refused(package, task, reference, tmp_path):
    fewer = dataclasses.replace(task, q={name: codes for name, codes in task.q.items() if name != "linear"})
    with pytest.raises(ExportError, match=r"holds 1 int8 weight\(s\) that are no layer's: \[\(5, 32\)\]"):
        exporter.check_weights(package / "model.pte", fewer, reference)
    (tmp_path / "model.pte").write_bytes((package / "model.pte").read_bytes()[:200])
    with pytest.raises(ExportError, match="`model.pte` cannot be read"):
        exporter.check_weights(tmp_path / "model.pte", task, reference)


def test_share_counts_float_work():
    weight = np.zeros((4, 3, 3, 2), np.int8)
    nodes = (Node("Conv2d", True, False, weight, 72), Node("FullyConnected", False, False, None, 24), Node("Convert", False, True, None, 0))
    share = exporter.share_of(ProgramContents(nodes, ("aten::view_copy", "aten::mean")))
    assert (share.integer_macs, share.macs) == (72, 96) and share.stays_float == ("FullyConnected", "aten::mean")
    assert share.operations == {"Conv2d": 1, "Convert": 1, "FullyConnected": 1, "aten::mean": 1, "aten::view_copy": 1}
    with pytest.raises(GateError, match="runs aten::addmm outside XNNPACK"):
        exporter.share_of(ProgramContents(nodes, ("aten::addmm",)))
    with pytest.raises(GateError, match="holds no convolution"):
        exporter.share_of(ProgramContents((), ()))


class Mixed(nn.Module):
    """A depthwise convolution, maxima, an addition of two branches that need not agree in scale, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.depthwise, self.pointwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.pool, self.linear = nn.MaxPool2d(2), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))) + x)
        return self.linear(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Signals(nn.Module):
    """Convolutions and maxima over (batch, channels, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(3, 8, 5, padding=2), nn.Conv1d(8, 8, 3, groups=8)
        self.pool, self.linear = nn.MaxPool1d(2), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return self.linear(x.flatten(1))


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make, size, float_parts", [(Mixed, (3, 8, 8), ("GlobalAvgPooling2d",)), (Signals, (3, 8), ())])
def test_answers_are_the_reference_to_the_code(make, size, float_parts, tmp_path):
    def batch(count: int, seed: int) -> torch.Tensor:
        return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))

    task = models.extracted_of(make())
    ranges = calibrate_ranges(task.model, task.q, task.scale, [batch(32, 1)])
    artefact = exporter.export(ExportRequest(task, ranges, TARGET, batch(1, 1)), tmp_path)
    x = batch(200, 5)
    got = infer(tmp_path / "model.pte", x.numpy(), runtime="executorch", options={})
    wanted, kind = next(exporter.admissible_outputs(artefact.reference, x))
    assert kind == "integer" and float((np.abs(got - wanted) > 0.5 * artefact.output_step).mean()) < 1e-3
    share = exporter.integer_share(tmp_path / "model.pte", {})
    assert share.share == 1.0 and share.stays_float == float_parts


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wrong_activation_scale_fails_gate_b(task, ranges, tmp_path):
    wrong = {**ranges, "x_quant": dataclasses.replace(ranges["x_quant"], scale=ranges["x_quant"].scale / 8)}
    write_package(task, wrong, TARGET, tmp_path / "p", example_input=models.inputs(1))
    bad = build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=wrong)
    parity = run_gates(tmp_path / "p", task, bad, TARGET, models.inputs(32, seed=7))
    assert parity.output_steps <= 1 and not parity.passed and all("Gate (b)" in failure for failure in parity.failures)


@installed
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vendor_baseline_is_int8(task, tmp_path):
    baseline = vendor_int8(task.model, models.inputs(32).numpy(), TARGET, tmp_path)
    assert baseline.skipped == "" and not baseline.seven_bit_weights and baseline.size_bytes == baseline.model.stat().st_size
    x = models.inputs(40, seed=5)
    wanted = task.model(x).detach().numpy()
    got = infer(baseline.model, x.numpy(), runtime="executorch", options={})
    assert 1e-6 < np.square(got - wanted).sum() / np.square(wanted).sum() < 1e-2


def test_missing_runtime_names_its_install_line(task, ranges, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in ("executorch", "torchao") else find(name, *rest))
    message = "Target `edge_executorch_xnnpack` needs executorch, torchao, which is not installed. Install it: pip install executorch"
    with pytest.raises(TargetError, match=message):
        write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1))


class PeaksOfWindows(nn.Module):
    """Depthwise over time, then the largest value of each channel, for which XNNPACK's partitioner has no form."""

    def __init__(self):
        super().__init__()
        self.conv, self.deep, self.peak = nn.Conv1d(6, 12, 3), nn.Conv1d(12, 12, 3, groups=12), nn.AdaptiveMaxPool1d(1)
        self.linear = nn.Linear(12, 5)

    def forward(self, x):
        return self.linear(self.peak(torch.relu(self.deep(torch.relu(self.conv(x))))).flatten(1))


@installed
def test_what_executorch_itself_refuses_is_said_before_training():
    model = PeaksOfWindows()
    graph = trace(model, torch.zeros(1, 6, 32), head="linear")
    with pytest.raises(ExportError, match="so nothing is trained: ExecuTorch refuses the model: .*adaptive_max_pool"):
        check_exportable(model, graph, [TARGET])
