"""A package that is damaged, was built in, or meets a machine without its runtime: one clear error or warning each, for `verify` and `bench`."""

import importlib.metadata
import importlib.util
import json

import numpy as np
import pytest

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.errors import GateError, TargetError
from tsn_toolkit.export.artefact import require_export
from tsn_toolkit.export.manifest import add_measurements
from tsn_toolkit.export.package_folder import checked_manifest, is_package, target_of
from tsn_toolkit.pipeline.commands import verify_path
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.package_check import verify_package

TARGET = load_target("cpu_onnxruntime")


def change(folder, edit):
    """The manifest after `edit`, which changes it in place."""
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.pop("files"), "`files`: the key is missing"),
        (lambda m: m["files"].update({"README.md": 3}), "`files.README.md`: .* got 3"),
        (lambda m: m["files"].update({"README.md": {"sha256": "abc"}}), "`files.README.md.sha256`: .* got 'abc'"),
        (lambda m: m["files"].pop("golden.npz"), r"`files`: has no `golden.npz` \(recorded inputs\)"),
        (lambda m: m.update(model_file="other.onnx"), r"`files`: has no `other.onnx` \(model_file\)"),
        (lambda m: m["files"].update({"../x": m["files"]["README.md"]}), "`files`: `../x` is not a path inside the folder"),
        (lambda m: m["target"].pop("gates"), "`target.gates`: the key is missing"),
        (lambda m: m.update(target="cpu"), "`target`: .* got 'cpu'"),
        (lambda m: m.update(output_step=0.0), "`output_step`: .* got 0.0"),
        (lambda m: m["target"].update(toolchain={"compiler": "gcc", "emulator": []}), "`program`: the key is missing"),
    ],
)
def test_a_damaged_manifest_names_the_key(copy, edit, words):
    change(copy, edit)
    assert is_package(copy)
    for use in (verify_package, bench_package):
        with pytest.raises(GateError, match=rf"(?s)copy`: manifest.json has \d problem.*{words}.*export the task again"):
            use(copy)


def test_all_problems_of_a_manifest_come_together(copy):
    change(copy, lambda m: (m.pop("inputs"), m.pop("macs")))
    with pytest.raises(GateError, match=r"(?s)has 2 problem\(s\):\n- `inputs`: the key is missing\n- `macs`: the key is missing"):
        verify_package(copy)


def test_a_target_of_another_version_names_the_key(copy):
    change(copy, lambda m: m["target"].update(colour="red"))
    with pytest.raises(GateError, match=r"`target.colour`: .* got 'red'"):
        target_of(copy, checked_manifest(copy))


def npz(**arrays):
    return lambda path: np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b"no archive"), "`golden.npz` is no npz file with the arrays `x` and `y`"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is no npz file"),
        (lambda path: path.open("wb").close(), "is no npz file"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "is no npz file"),
        (npz(x=np.zeros((1, 3, 8, 8))), "is no npz file .*'y"),
        (npz(x=np.array([None]), y=np.zeros(1)), "is no npz file"),
        (npz(x=np.zeros((0, 3, 8, 8)), y=np.zeros((1, 0, 5))), r"x \(0, 3, 8, 8\) and y \(1, 0, 5\); .* x must be \(n, 3, 8, 8\) .* with n >= 1"),
        (npz(x=np.zeros((2, 3, 8, 8)), y=np.zeros((0, 2, 5))), r"y \(0, 2, 5\); .* y \(arithmetics, n, 5\)"),
        (npz(x=np.zeros((2, 3, 8, 9)), y=np.zeros((1, 2, 5))), r"holds x \(2, 3, 8, 9\)"),
        (npz(x=np.zeros((2, 3, 8, 8)), y=np.zeros((1, 3, 5))), r"y \(1, 3, 5\)"),
    ],
)
def test_damaged_recorded_inputs_are_named_even_when_rehashed(copy, write, words):
    write(copy / "golden.npz")
    add_measurements(copy, {})
    with pytest.raises(GateError, match=f"copy`: `golden.npz` {words}" if words.startswith("is") else words) as caught:
        verify_package(copy)
    assert "export the task again" in str(caught.value)


@pytest.mark.parametrize("name", ["golden.npz", "model.onnx"])
def test_a_package_that_lacks_a_file_is_still_a_package(copy, name):
    (copy / name).unlink()
    with pytest.raises(GateError, match=f"copy`: `{name}` is missing. Export the task again"):
        verify_path(copy, measure=False)


def test_a_package_is_known_without_its_manifest_and_a_store_is_none(copy, tmp_path):
    (copy / "manifest.json").write_text("{")
    with pytest.raises(GateError, match=r"manifest.json` is not JSON: .* export the task again"):
        verify_path(copy, measure=False)
    (copy / "manifest.json").unlink()
    assert is_package(copy)
    store = tmp_path / "store"
    store.mkdir()
    (store / "manifest.json").write_text('{"schema": 1, "tasks": []}')
    assert not is_package(store) and not is_package(tmp_path / "nothing")
    (copy / "trunk.safetensors").touch()
    assert not is_package(copy)


def test_nothing_is_timed_without_the_model(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(GateError, match="copy`: `model.onnx` is missing. Export the task again"):
        bench_package(copy)


def test_files_beside_the_package_are_a_warning(copy):
    for index in range(10):
        (copy / f"weights{index}.o").write_bytes(b"built")
    check = verify_package(copy)
    assert check.passed is True and check.output_steps == 0.0 and len(check.warnings) == 1
    assert "neither checked nor read: weights0.o, " in check.warnings[0] and check.warnings[0].endswith("weights7.o and 2 more")


@pytest.mark.parametrize("use", [verify_package, bench_package])
def test_without_its_runtime_the_message_says_what_to_install(package, use, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=f"`cpu_onnxruntime` needs onnxruntime, which is not installed. Install it: {TARGET.install}"):
        use(package)


@pytest.mark.parametrize("use", [verify_package, bench_package])
def test_a_folder_of_the_runtimes_name_is_no_runtime(package, use, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    with pytest.raises(TargetError, match=f"`cpu_onnxruntime` needs onnxruntime, which is not installed. Install it: {TARGET.install}"):
        use(package)


@pytest.mark.parametrize("use", [verify_package, bench_package])
def test_a_runtime_that_is_too_old_is_named(copy, use):
    change(copy, lambda m: m["target"].update(minimum_version="999.1"))
    installed = importlib.metadata.version("onnxruntime")
    with pytest.raises(TargetError, match=rf"`cpu_onnxruntime` needs onnxruntime >= 999.1, found {installed}. Install it: {TARGET.install}"):
        use(copy)


@pytest.mark.parametrize("minimum", ["1.30", "1.30.0", "1.30.0.0"])
def test_a_runtime_may_come_with_a_package_of_another_name(monkeypatch, minimum):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    monkeypatch.setattr(importlib.metadata, "version", {"onnxruntime-gpu": "1.30"}.__getitem__)
    require_export(TARGET.model_copy(update={"minimum_version": minimum}), "onnxruntime", ())
    with pytest.raises(TargetError, match=r"needs onnxruntime >= 1\.30\.1, found 1\.30\."):
        require_export(TARGET.model_copy(update={"minimum_version": "1.30.1"}), "onnxruntime", ())
