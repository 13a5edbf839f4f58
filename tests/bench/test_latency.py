"""The benchmark measures what it says, beside dense fp32, and warns."""

import sys
from pathlib import Path

import pytest

from tsn_toolkit.bench.latency import Causes, bench_package, slower_warnings
from tsn_toolkit.errors import GateError
from tsn_toolkit.export.onnxruntime import export_dense_fp32
from tsn_toolkit.export.package import write_package
from tsn_toolkit.export.processor import processor_record
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
import export_models as models  # noqa: E402


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    task = models.extracted_of(models.ResidualNet())
    folder = tmp_path_factory.mktemp("packages")
    ranges = calibrate_ranges(task.model, task.q, task.scale, [models.inputs(16)])
    write_package(task, ranges, load_target("cpu_onnxruntime"), folder / "p", example_input=models.inputs(1))
    export_dense_fp32(task.model, models.inputs(1), folder / "dense.onnx")
    return folder


def test_quartiles_of_both_models(package):
    result = bench_package(package / "p", dense_fp32=package / "dense.onnx", batches=(1, 4), seconds=0.1, rounds=2)
    assert result["unit"] == "milliseconds per batch" and result["threads"] == 1 and result["runtime"] == "onnxruntime"
    assert {key: result[key] for key in processor_record()} == processor_record()
    for batch in ("batch_1", "batch_4"):
        numbers = result[batch]
        assert 0 < numbers["q1"] <= numbers["median"] <= numbers["q3"]
        assert 0 < numbers["dense_fp32_q1"] <= numbers["dense_fp32_median"] <= numbers["dense_fp32_q3"]
        assert numbers["calls"] >= 6 and numbers["speedup"] == numbers["dense_fp32_median"] / numbers["median"]
    assert len(result["warnings"]) == sum(result[batch]["speedup"] < 1 for batch in ("batch_1", "batch_4"))


def test_slower_is_a_warning_with_a_reason():
    numbers = {"median": 4.0, "dense_fp32_median": 2.0, "speedup": 0.5}
    (warning,) = slower_warnings(32, numbers, Causes())
    assert warning == "batch 32: int8 takes 4 ms, dense fp32 2 ms; likely reason: small layers spend their time between kernels."
    assert slower_warnings(1, {**numbers, "speedup": 1.2}, Causes(slow_kernels=True)) == []


def test_slower_than_the_vendors_int8_is_a_warning_too():
    numbers = {"median": 4.0, "vendor_int8_median": 2.0, "speedup_over_vendor_int8": 0.5}
    (warning,) = slower_warnings(1, numbers, Causes(whole=True))
    assert warning == (
        "batch 1: int8 takes 4 ms, the vendor's int8 of the dense model 2 ms; likely reason: no unit was removed, so both do the same work."
    )
    assert "`max_code` is 63" in slower_warnings(1, numbers, Causes(slow_kernels=True))[0]
    (warning,) = slower_warnings(1, numbers, Causes(computes_float=True))
    assert "float32 takes 4 ms" in warning and "computes in float32, the other in int8" in warning


def test_bad_settings(package):
    with pytest.raises(GateError, match=r"got 0, 4, \(1,\)"):
        bench_package(package / "p", threads=0, batches=(1,))
