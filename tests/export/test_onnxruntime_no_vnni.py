"""7-bit weights in ONNX Runtime: exact in the fast kernels of a processor without VNNI, where 8-bit weights are not."""

import importlib.util

import export_models as models
import numpy as np
import pytest

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.child import infer
from tsn_toolkit.export.integer_interpreter import interpret
from tsn_toolkit.export.onnxruntime_arithmetic import OnnxRuntimeArithmetic
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.processor import processor_has_vnni
from tsn_toolkit.quantizers.activations import build_integer_model, calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")

TARGET = load_target("cpu_onnxruntime_no_vnni")


def packed(task, target, folder):
    """(reference, folder) of a task's package."""
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(32)])
    write_package(task, ranges, target, folder, example_input=models.inputs(1), options=PackageOptions(golden_samples=4))
    return build_integer_model(task.model, task.q, task.scale, models.inputs(1), ranges=ranges), folder


def test_package_passes_both_gates_without_session_entries(tmp_path):
    task = models.with_smaller_codes(models.extracted_of(models.ResidualNet()))
    reference, folder = packed(task, TARGET, tmp_path / "p")
    x = models.inputs(48, seed=7)
    parity = run_gates(folder, task, reference, TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps <= 0.001
    assert verify_package(folder).passed and integer_share(folder).share == 1.0
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "add_session_config_entry" not in code
    assert "largest difference to the recorded outputs: 0.000 output steps" in models.readme_output(folder)


def test_codes_beyond_the_target_are_refused(tmp_path):
    with pytest.raises(ExportError, match="magnitude 127; target `cpu_onnxruntime_no_vnni` allows at most 63"):
        packed(models.extracted_of(models.ResidualNet()), TARGET, tmp_path / "p")


@pytest.mark.skipif(processor_has_vnni(), reason="the fast kernels are exact on a processor with VNNI")
def test_larger_codes_would_saturate_here(tmp_path):
    """The reason for `max_code`: the same kernels without it are wrong by many output steps on this processor."""
    task = models.extracted_of(models.ResNet20())
    loose = TARGET.model_copy(update={"max_code": 127})
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(8, 32)])
    write_package(task, ranges, loose, tmp_path / "p", example_input=models.inputs(1, 32), options=PackageOptions(golden_samples=1))
    reference = build_integer_model(task.model, task.q, task.scale, models.inputs(1, 32), ranges=ranges)
    x = models.inputs(4, 32, seed=9)
    got = infer(tmp_path / "p" / "model.onnx", x.numpy(), runtime="onnxruntime", options={})
    exact = [interpret(OnnxRuntimeArithmetic(reference, order), x)[0].numpy() for order in ("first", "second")]
    assert min(float(np.abs(got - wanted).max()) for wanted in exact) > 5 * reference.output_step
