"""ExecuTorch packages: the store's integers in XNNPACK's kernels, both gates, and what they catch."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tsn_toolkit.bench.vendor_int8 import vendor_int8
from tsn_toolkit.errors import TargetError
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.package import PackageOptions, add_measurements, read_manifest, write_package
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.package_check import verify_package

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402

TARGET = load_target("edge_executorch_xnnpack")
installed = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="ExecuTorch is not installed")


@pytest.fixture(scope="module")
def task():
    return models.extracted_of(models.ResidualNet())


@pytest.fixture(scope="module")
def ranges(task):
    return calibrate_ranges(task.model, task.q, task.scale, [models.inputs(32)])


@pytest.fixture(scope="module")
def reference(task, ranges):
    return build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges)


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):
    pytest.importorskip("executorch", reason="ExecuTorch is not installed")
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1), options=PackageOptions(golden_samples=8))
    return folder


def test_package_passes_both_gates(package, task, reference):
    x = models.inputs(48, seed=7)
    parity = run_gates(package, task, reference, TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps <= 1 and parity.top1_agreement >= 0.9
    assert verify_package(package).passed
    assert "largest difference to the recorded outputs" in models.readme_output(package)


def test_manifest_adds_up(package, task):
    manifest = read_manifest(package)
    assert manifest["arithmetic"] == "integer" and manifest["versions"]["executorch"] and manifest["not_run"] == ""
    assert sum(manifest["bytes_by_part"].values()) == (package / "model.pte").stat().st_size
    assert manifest["bytes_by_part"]["weights"] == sum(codes.size for codes in task.q.values())


def test_flipped_weight_bit_fails_gate_a_even_when_rehashed(package, task, reference, tmp_path):
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    content = bytearray((copy / "model.pte").read_bytes())
    codes = np.ascontiguousarray(reference.codes["linear"])
    content[content.index(codes.tobytes()) + codes.size // 2] ^= 0x80
    (copy / "model.pte").write_bytes(content)
    add_measurements(copy, {})
    parity = run_gates(copy, task, reference, TARGET, models.inputs(16, seed=7))
    assert "does not hold the store's integers of layer `linear`" in parity.failures[0] and parity.output_steps > 1
    assert not verify_package(copy).passed


@installed
@pytest.mark.slow
def test_vendor_baseline_is_int8(task, tmp_path):
    baseline = vendor_int8(task.model, models.inputs(32).numpy(), TARGET, tmp_path)
    assert baseline.skipped == "" and baseline.size_bytes == baseline.model.stat().st_size
    x = models.inputs(40, seed=5)
    wanted = task.model(x).detach().numpy()
    got = infer(baseline.model, x.numpy(), runtime="executorch", options={})
    assert 1e-6 < np.square(got - wanted).sum() / np.square(wanted).sum() < 1e-2


def test_missing_runtime_names_its_install_line(task, ranges, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "executorch" else find(name, *rest))
    message = "Target `edge_executorch_xnnpack` needs executorch, which is not installed. Install it: pip install executorch"
    with pytest.raises(TargetError, match=message):
        write_package(task, ranges, TARGET, tmp_path / "p", example_input=models.inputs(1))
