"""Programs for PyTorch on a GPU: the same file as for the CPU, run where CUDA is, and a package that says so where it is not."""

import export_models as models
import numpy as np
import pytest

import tsn_toolkit.export.torch as program
import tsn_toolkit.export.torch_cuda as exporter
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.package import write_package
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("gpu_torch")
without_cuda = pytest.mark.skipif(not exporter.cannot_run(), reason="a CUDA device is here: packages are run")
with_cuda = pytest.mark.skipif(bool(exporter.cannot_run()), reason=exporter.cannot_run())


@pytest.fixture(scope="module")
def package(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "task"
    write_package(task, {}, TARGET, folder, example_input=models.inputs(1))
    return folder


@without_cuda
def test_package_says_it_was_not_run(package, task):
    manifest = read_manifest(package)
    assert manifest["not_run"] == "not run here: no CUDA device" and "This package was not run here" in (package / "README.md").read_text()
    parity = run_gates(package, task, program.from_integers(task), TARGET, models.inputs(16, seed=7))
    assert parity.not_run and parity.failures == () and np.isnan(parity.output_steps) and parity.top1_agreement == 1.0
    assert verify_package(package).not_run == manifest["not_run"]


def test_file_is_the_one_for_the_cpu(package, task, tmp_path):
    write_package(task, {}, load_target("cpu_torch"), tmp_path / "cpu", example_input=models.inputs(1))
    assert (tmp_path / "cpu" / "model.pt2").read_bytes() == (package / "model.pt2").read_bytes()
    assert 'move_to_device_pass(torch.export.load("model.pt2"), "cuda")' in (package / "README.md").read_text()


@with_cuda
def test_program_passes_both_gates_on_the_gpu(package, task):
    parity = run_gates(package, task, program.from_integers(task), TARGET, models.inputs(48, seed=7))
    assert parity.passed
    assert "largest difference to the recorded outputs" in models.readme_output(package)
