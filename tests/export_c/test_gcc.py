"""C packages: written, compiled and run by the target's own tools, exact; and what the gates and limits refuse."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import export_models as models
import numpy as np
import pytest
from torch import nn

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export import child, gcc, run_gcc
from tsn_toolkit.export.manifest import add_measurements, read_manifest
from tsn_toolkit.export.package import PackageOptions, write_package
from tsn_toolkit.export.run_gcc import emulated_count
from tsn_toolkit.quantizers.ranges import calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.gates import run_gates
from tsn_toolkit.verify.integer_share import integer_share
from tsn_toolkit.verify.package_check import verify_package

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import ActivationNet, SoftmaxNet, examples  # noqa: E402

TARGET = load_target("edge_cortex_m4")


class Ended(nn.Sequential):
    """A network that answers with probabilities."""

    def __init__(self):
        super().__init__(nn.Linear(24, 7), nn.Softmax(1))


def tools(target):
    return [tool for tool in ("gcc", "make", target.toolchain.compiler, target.toolchain.emulator[0]) if shutil.which(tool) is None]


pytestmark = pytest.mark.skipif(bool(tools(TARGET)), reason=f"{' and '.join(tools(TARGET))} not installed")


@pytest.fixture(scope="module")
def package(task, ranges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages") / "residual"
    write_package(task, ranges, TARGET, folder, example_input=models.inputs(1), options=PackageOptions(labels=(3, 1, 4, 5, 9)))
    return folder


@pytest.fixture
def copy(package, tmp_path):
    return Path(shutil.copytree(package, tmp_path / "copy"))


def test_the_package_passes_both_gates_exactly(task, package, reference):
    x = models.inputs(48, seed=7)
    parity = run_gates(package, task, reference, TARGET, x, task.model(x).argmax(1))
    assert parity.passed and parity.output_steps == 0.0 and parity.samples == 48 and parity.emulated_samples == 8
    check = verify_package(package)
    assert check.passed and check.output_steps == 0.0 and check.files == 11
    assert check.emulated_samples == 8 and check.warnings == ()
    share = integer_share(package)
    assert (share.share, share.operations) == (1.0, {"convolution": 3, "average_pool": 1, "add": 1})


def test_the_manifest_says_what_the_program_occupies(package):
    manifest = read_manifest(package)
    program, found = manifest["program"], manifest["program"]["measured"]
    assert sum(manifest["bytes_by_part"].values()) == found["flash_bytes"] < 5000
    assert abs(program["prediction_error"]["flash"]) < 0.1 and abs(program["prediction_error"]["ram"]) < 0.2
    assert int(manifest["versions"]["gcc"].split(".")[0]) >= 12 and manifest["model_file"] == "model.c"
    assert {"model.h", "weights.c", "Makefile", "run_board.c", "board.ld", "golden.npz", "README.md"} <= set(manifest["files"])


def test_nothing_is_timed(package):
    assert bench_package(package)["not_run"] == "not measured: emulator (qemu-system-arm -M mps2-an386)"
    with pytest.raises(TargetError, match="no float32 baseline"):
        gcc.export_dense_fp32(models.ResidualNet(), models.inputs(1), package / "dense")


def test_the_readmes_code_runs(package):
    assert "recorded outputs: 0.000 output steps" in models.readme_output(package)
    assert "int32_t best = tsn_run(TSN_TASK_TASK, input, output);" in (package / "README.md").read_text()
    assert "tsn_softmax_task(output, output);" in (package / "README.md").read_text()


def test_the_files_are_the_same_again(package, task, ranges, tmp_path):
    options = PackageOptions(labels=(3, 1, 4, 5, 9))
    write_package(task, ranges, TARGET, tmp_path / "again", example_input=models.inputs(1), options=options)
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (package / "manifest.json").read_bytes()


def flip_sign(folder: Path, array: str) -> None:
    """Flip the sign of one entry of a const array that is not 0."""
    path = folder / "weights.c"
    before, rest = path.read_text().split(f" {array}[", 1)
    head, numbers = rest.split("= {\n", 1)
    first = next(word for word in numbers.split() if word not in ("0,", "-0,"))
    path.write_text(f"{before} {array}[{head}= {{\n{numbers.replace(first, str(-int(first[:-1])) + ',', 1)}")


@pytest.mark.parametrize(("array", "layer"), [("tsn_task_conv2_values_codebook", "conv2"), ("tsn_task_linear_values_codebook", "linear")])
def test_a_changed_weight_fails_gate_a_even_when_rehashed(array, layer, task, copy, reference):
    flip_sign(copy, array)
    with pytest.raises(GateError, match="`weights.c` has sha256"):
        verify_package(copy)
    add_measurements(copy, {})
    assert "differs from the recorded outputs" in verify_package(copy).failures[0]
    parity = run_gates(copy, task, reference, TARGET, models.inputs(16, seed=7))
    assert f"weights of layer `{layer}`" in parity.failures[0] and parity.output_steps > 1


def test_a_wrong_scale_fails_gate_b(task, ranges, tmp_path):
    changed = {name: dataclasses.replace(found, scale=found.scale * 30) for name, found in ranges.items()}
    seen = {}

    def measure(draft, artefact):
        seen["parity"] = run_gates(draft, task, artefact.reference, TARGET, models.inputs(32, seed=7))
        return {}

    write_package(task, changed, TARGET, tmp_path / "p", example_input=models.inputs(1), measure=measure)
    assert seen["parity"].output_steps == 0 and all("Gate (b)" in failure for failure in seen["parity"].failures) and not seen["parity"].passed


def test_a_program_for_another_arithmetic_is_found_by_the_emulator(copy):
    """The program for the target is built from the same sources; one that is built otherwise must be noticed."""
    path = copy / "run_board.c"
    path.write_text(path.read_text().replace("tsn_run(task, input, output);", "tsn_run(task, input, output);\n        output[0]++;"))
    add_measurements(copy, {})
    with pytest.raises(GateError, match="task `task`: the program for the target and the program for this computer give different bytes"):
        verify_package(copy)


def test_how_many_examples_are_emulated(package):
    manifest = read_manifest(package)
    assert emulated_count({**manifest, "macs": 10}) == 8 and emulated_count({**manifest, "macs": 30_000_000}) == 3
    assert emulated_count({**manifest, "macs": 10**10}) == 1


def test_without_a_cross_compiler_the_package_is_verified_on_this_computer_and_says_so(package, task, reference, monkeypatch, tmp_path):
    for tool in ("gcc", "make", "as", "ld", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tmp_path))
    check = verify_package(package)
    assert check.passed is True and check.output_steps == 0.0 and check.emulated_samples == 0
    left_out = "emulator left out: arm-none-eabi-gcc and qemu-system-arm missing, so the program for edge_cortex_m4 was not run"
    assert check.warnings == (f"{left_out}. Install it: {TARGET.install}",)
    assert run_gates(package, task, reference, TARGET, models.inputs(4, seed=7)).emulated_samples == 0


def test_what_make_builds_in_the_folder_is_left_alone(copy):
    subprocess.run(["make", "-s"], cwd=copy, check=True, timeout=100)
    check = verify_package(copy)
    assert check.passed is True and "libtsn.a, model.o, probabilities.o, weights.o" in check.warnings[0]


def test_a_program_that_hangs_in_the_emulator_is_stopped(copy, tmp_path):
    """By a runner whose limit is 3 s; what it leaves running is stopped by who started it."""
    path = copy / "run_board.c"
    path.write_text(path.read_text().replace("tsn_run(task, input, output);", "for (;;) {}"))
    add_measurements(copy, {})
    script, work = tmp_path / "run_impatient.py", tmp_path / "work"
    script.write_text(Path(run_gcc.__file__).read_text().replace("EMULATOR_LIMIT_S = 600", "EMULATOR_LIMIT_S = 3"))
    work.mkdir()
    request = {"task": "infer", "model": str(copy / "model.c"), "options": {}}
    with pytest.raises(GateError, match="`make -s emulate` does not end within 3 s and was stopped"):
        child._run_script(script, str(work), tmp_path / "y.npz", models.inputs(1).numpy(), request)


def test_without_any_compiler_the_message_says_what_to_install(package, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GateError, match="gcc and make not installed. Install a C compiler: apt-get install gcc make"):
        verify_package(package)


def test_a_program_that_is_too_large_leaves_no_package(task, ranges, tmp_path):
    small = TARGET.model_copy(update={"flash_kib": 3})
    with pytest.raises(ExportError, match=r"3,072 bytes of flash, the program takes 3,\d+. The largest layer is `conv2`"):
        write_package(task, ranges, small, tmp_path / "p", example_input=models.inputs(1))
    tight = TARGET.model_copy(update={"ram_kib": 1})
    with pytest.raises(ExportError, match=r"1,024 bytes of RAM, the program takes 2,\d+. The most is in use at `relu_1`"):
        write_package(task, ranges, tight, tmp_path / "p", example_input=models.inputs(1))
    assert list(tmp_path.iterdir()) == []


def test_a_float_in_the_sources_is_no_integer_kernel(copy):
    (copy / "model.c").write_text((copy / "model.c").read_text() + "static double unused;\n")
    with pytest.raises(GateError, match="`model.c` holds the type `double`"):
        integer_share(copy)


def test_the_runner_gives_what_the_reference_gives(package, reference):
    """Far beyond the calibrated range, where inputs are clipped."""
    from tsn_toolkit.export.child import infer

    x = 40 * models.inputs(6, seed=3)
    expected, kind = next(iter(gcc.admissible_outputs(reference, x)))
    assert kind == "integer" and np.array_equal(infer(package / "model.c", x.numpy(), runtime="gcc", options={}), expected)
    with pytest.raises(GateError, match="the package has no task `other`"):
        infer(package / "model.c", x.numpy(), runtime="gcc", options={"task": "other"})


@pytest.mark.parametrize("kind", [ActivationNet, SoftmaxNet, Ended], ids=lambda kind: kind.__name__)
def test_networks_with_tables_and_softmax_pass_both_gates(kind, tmp_path):
    task, x = models.extracted_of(kind()), examples(SoftmaxNet if kind is Ended else kind, 64, seed=7)
    ranges = calibrate_ranges(task.model, task.q, task.scale, [x])

    def measure(draft, artefact):
        parity = run_gates(draft, task, artefact.reference, TARGET, x, task.model(x).argmax(1))
        assert parity.passed and parity.output_steps == 0.0 and parity.emulated_samples == 8, parity
        return {}

    manifest = write_package(task, ranges, TARGET, tmp_path / "p", example_input=x[:1], measure=measure)
    softmax, calls = manifest["program"]["tasks"][0]["softmax"], manifest["program"]["kernel_calls"]
    assert (
        calls
        == {
            ActivationNet: {"convolution": 4, "add": 1, "lookup": 4},
            SoftmaxNet: {"convolution": 2, "rescale": 1, "softmax": 1},
            Ended: {"convolution": 1, "softmax": 1},
        }[kind]
    )
    assert softmax == ("" if kind is Ended else "tsn_softmax_task")
    assert ("tsn_softmax_task" in (tmp_path / "p" / "README.md").read_text()) == bool(softmax)
    assert verify_package(tmp_path / "p").passed and integer_share(tmp_path / "p").share == 1.0
    assert "recorded outputs: 0.000 output steps" in models.readme_output(tmp_path / "p")


@pytest.mark.parametrize("name", ["edge_cortex_m0", "edge_cortex_m7", "edge_cortex_m33", "edge_cortex_m55", "edge_linux_aarch64_c"])
def test_every_other_target_runs_in_its_own_emulator(name, task, ranges, tmp_path):
    target = load_target(name)
    if tools(target):
        pytest.skip(f"{' and '.join(tools(target))} not installed")
    manifest = write_package(task, ranges, target, tmp_path / "p", example_input=models.inputs(1))
    assert emulated_count(manifest) == 8 and verify_package(tmp_path / "p").passed
    assert json.loads((tmp_path / "p" / "manifest.json").read_text())["target"]["name"] == name
