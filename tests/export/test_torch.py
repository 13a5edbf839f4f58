"""Float packages: a program that runs with torch alone, the same tensors beside it, and what the gates catch."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import export_models as models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tsn_toolkit.export.torch as exporter
from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.delivery import share_record
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("cpu_torch")
OPTIONS = PackageOptions(unit_masks={"conv1": np.array([True, False, True])})


@pytest.fixture(scope="module")
def package(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "residual"
    write_package(task, {}, TARGET, folder, example_input=models.inputs(1), options=OPTIONS)
    return folder


@pytest.fixture
def copy(package, tmp_path):
    return Path(shutil.copytree(package, tmp_path / "copy"))


def flip_sign_bit(program: Path, tensor: str) -> None:
    """Flip the highest bit of one weight inside a program's archive."""
    with zipfile.ZipFile(program) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    record = next(entry for entry in entries if entry.endswith("model_weights_config.json"))
    stored = json.loads(entries[record])["config"][tensor]["path_name"]
    name = next(entry for entry in entries if entry.endswith(f"weights/{stored}"))
    content = bytearray(entries[name])
    content[len(content) // 2 | 3] ^= 0x80
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry, data in {**entries, name: bytes(content)}.items():
            archive.writestr(entry, data)
    program.write_bytes(buffer.getvalue())


def test_package_passes_both_gates(package, task):
    x = models.inputs(48, seed=7)
    parity = run_gates(package, task, exporter.from_integers(task), TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps < 1 and parity.accuracy == 1.0
    assert integer_share(package) is None and share_record(None) == {"integer_mac_share": None, "stays_float": [], "float_reasons": {}}
    manifest = read_manifest(package)
    assert (manifest["arithmetic"], manifest["quantization"], manifest["model_file"]) == ("float", "none", "model.pt2")
    assert sum(manifest["bytes_by_part"].values()) == (package / "model.pt2").stat().st_size
    with np.load(package / "golden.npz") as golden:
        assert manifest["output_step"] == pytest.approx(1e-5 * np.abs(golden["y"]).max())


def test_files_describe_the_narrow_model(package, task):
    plan = json.loads((package / "plan.json").read_text())
    assert plan["modules"]["conv2"] == {"weight": [8, 8, 3, 3]} and plan["modules"]["linear"] == {"weight": [5, 32], "bias": [5]}
    assert plan["units"] == {"conv1": [1, 0, 1]}
    other = models.ResidualNet().eval()
    other.load_state_dict(load_file(package / "weights.safetensors"))
    x = models.inputs(4, seed=2)
    assert torch.equal(other(x), task.model(x))


def test_files_name_no_machine_and_are_the_same_again(package, task, tmp_path):
    for path in package.iterdir():
        assert str(Path(__file__).parent).encode() not in path.read_bytes() and b"export_models" not in path.read_bytes()
    write_package(task, {}, TARGET, tmp_path / "again", example_input=models.inputs(1), options=OPTIONS)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (package / "manifest.json").read_bytes()


def test_runner_needs_torch_alone_and_takes_any_batch(package, task, tmp_path):
    x = models.inputs(7, seed=9)
    np.savez(tmp_path / "x.npz", x=x.numpy())
    request = {"task": "infer", "model": str(package / "model.pt2"), "threads": 1, "batch_size": 3}
    request |= {"inputs": str(tmp_path / "x.npz"), "outputs": str(tmp_path / "y.npz")}
    (tmp_path / "request.json").write_text(json.dumps(request))
    for name in ("run_torch.py", "runner.py"):
        shutil.copy(Path(exporter.__file__).with_name(name), tmp_path)
    code = "import sys; sys.modules['tsn_toolkit'] = None; sys.path.insert(0, '.'); import run_torch; run_torch.main('request.json')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as arrays:
        got = arrays["y"]
    expected = task.model(x).detach().numpy()
    assert got.shape == expected.shape and np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_readme_code_runs(package):
    text = models.readme_output(package)
    steps = float(text.split("recorded outputs: ")[1].split()[0])
    assert steps < 1.0
    assert "as a float32 model" in (package / "README.md").read_text()


def test_flipped_bit_in_the_program_fails_gate_a_even_when_rehashed(copy, task):
    flip_sign_bit(copy / "model.pt2", "conv2.weight")
    with pytest.raises(GateError, match="`model.pt2` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    parity = run_gates(copy, task, exporter.from_integers(task), TARGET, models.inputs(16, seed=7))
    assert "`model.pt2`: tensor `conv2.weight` is not the store's" in parity.failures[0]
    assert parity.output_steps > 1 and "artefact and float reference differ by" in parity.failures[1]


def test_flipped_bit_beside_the_program_is_found(copy, task):
    exporter.check_weights(copy / "model.pt2", task, task.model)
    tensors = load_file(copy / "weights.safetensors")
    tensors["linear.weight"][3, 5] *= -1
    save_file(tensors, copy / "weights.safetensors")
    with pytest.raises(ExportError, match="`weights.safetensors`: tensor `linear.weight` is not the store's"):
        exporter.check_weights(copy / "model.pt2", task, task.model)
    for name in ("weights.safetensors", "model.pt2"):
        (copy / name).write_bytes(b"nonsense")
        with pytest.raises(ExportError, match=f"`{name}` cannot be read"):
            exporter.check_weights(copy / "model.pt2", task, task.model)


def test_wrong_scale_fails_gate_b(task, tmp_path):
    wrong = dataclasses.replace(task, scale={**task.scale, "conv2": task.scale["conv2"] * 4})
    measured = {}

    def measure(draft, artefact):
        measured["parity"] = run_gates(draft, wrong, artefact.reference, TARGET, models.inputs(32, seed=7))
        return {}

    write_package(wrong, {}, TARGET, tmp_path / "p", example_input=models.inputs(1), measure=measure)
    parity = measured["parity"]
    assert parity.output_steps < 1 and not parity.passed and all("Gate (b)" in failure for failure in parity.failures)


def test_benchmark_beside_dense(package, task, tmp_path):
    exporter.export_dense_fp32(task.model, models.inputs(1), tmp_path / "dense.pt2")
    result = bench_package(package, dense_fp32=tmp_path / "dense.pt2", batches=(2,), seconds=0.1, rounds=1)
    assert result["runtime"] == "torch" and 0 < result["batch_2"]["median"] and 0 < result["batch_2"]["dense_fp32_median"]
    assert all("float32 takes" in warning for warning in result["warnings"])


def test_refusals(task, tmp_path):
    with pytest.raises(ExportError, match=r"no unit was removed(.|\n)*`conv1`: weight \(8, 3, 3, 3\) keeps all units, \d+% of it is 0"):
        write_package(dataclasses.replace(task, macs=2000), {}, TARGET, tmp_path / "p", example_input=models.inputs(1))
    old = TARGET.model_copy(update={"minimum_version": "999.0"})
    with pytest.raises(TargetError, match=r"needs torch >= 999\.0, found .*pip install torch"):
        write_package(task, {}, old, tmp_path / "p", example_input=models.inputs(1))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="`torch.export` refuses the model"):
        exporter.export_dense_fp32(Branching(), models.inputs(1), tmp_path / "d.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "shown"), [("", "AssertionError: no message"), ("\n  the cause\nmore", "AssertionError: the cause$")])
def test_an_error_without_a_first_line_is_told_all_the_same(text, shown, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(text)

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(ExportError, match=f"`torch.export` refuses the model: {shown}"):
        exporter.export_dense_fp32(torch.nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "model.pt2")
