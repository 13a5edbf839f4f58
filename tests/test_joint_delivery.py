"""Several tasks in one package: shared once, exact task by task, and verified like any other package."""

import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tsn_toolkit.contracts import FrozenLayer, Split, TaskData
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.c.share import OwnerView
from tsn_toolkit.joint_delivery import Member, deliver_jointly
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.target import load_target
from tsn_toolkit.verify.package_check import verify_package

sys.path.insert(0, str(Path(__file__).resolve().parent / "export"))
import export_models as models  # noqa: E402

TARGET = load_target("edge_cortex_m4")
TOOLS = [tool for tool in ("gcc", "make", TARGET.toolchain.compiler, "qemu-system-arm") if shutil.which(tool) is None]

pytestmark = pytest.mark.skipif(bool(TOOLS), reason=f"{' and '.join(TOOLS)} not installed")


def member(first, number):
    """A task with the first one's convs, of which it owns a few slots in conv2, and norms and a head of its own."""
    other = models.extracted_of(models.ResidualNet(), seed=number)
    model, q, scale = copy.deepcopy(first.model), {**first.q, "linear": other.q["linear"]}, {**first.scale, "linear": other.scale["linear"]}
    q["conv2"] = np.where(np.random.default_rng(number).random(q["conv2"].shape) < 0.03, np.int8(10 + number), q["conv2"]).astype(np.int8)
    with torch.no_grad():
        model.linear.load_state_dict(other.model.linear.state_dict())
        model.bn1.weight.mul_(1 + 0.1 * number)
        model.conv2.weight.copy_(torch.from_numpy(scale["conv2"].reshape(-1, 1, 1, 1) * q["conv2"].astype(np.float32)))
    slots = {layer: np.arange(codes.size).reshape(codes.shape) for layer, codes in q.items()}
    extracted = dataclasses.replace(first, task=f"task-{number}", model=model, q=q, scale=scale, slots=slots)
    ranges = calibrate_ranges(model, q, scale, [models.inputs(32)])
    x = models.inputs(40, seed=7 + number)
    split = Split(x, model(x).argmax(1))
    data = TaskData(f"task-{number}", (10, 11, 12, 13, 14), split, split, split, (0.0,) * 3, (1.0 + number // 2 * 1e-4,) * 3)
    return Member(extracted, ranges, data, {"seed": number})


@pytest.fixture(scope="module")
def given():
    """(members, owners): three tasks of one trunk."""
    first = models.extracted_of(models.ResidualNet())
    members = [member(first, number) for number in range(3)]

    def view(q):
        return {layer: FrozenLayer(q[layer], np.ones(q[layer].shape, bool), None) for layer in ("conv1", "conv2")}

    owners = {"trunk": OwnerView("", view(first.q)), **{item.extracted.task: OwnerView("trunk", view(item.extracted.q)) for item in members}}
    return members, owners


@pytest.fixture(scope="module")
def package(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint") / "package"
    deliver_jointly(*given, TARGET, folder)
    return folder


def test_every_task_passes_both_gates_exactly(package):
    parity = json.loads((package / "parity.json").read_text())
    assert list(parity) == ["task-0", "task-1", "task-2"]
    assert all(found["passed"] and found["output_steps"] == 0.0 and found["accuracy"] > 0.9 for found in parity.values())
    check = verify_package(package)
    assert check.passed and check.output_steps == 0.0
    with np.load(package / "golden.npz") as golden:
        assert golden["y"].shape[0] == 1 and golden["y"].shape[2] == 15, "the outputs of three tasks side by side"
        assert golden["y"].shape[1] % 16 == 0, "16 inputs for each range that a task has"
    assert [found["integer_mac_share"] for found in parity.values()] == [1.0] * 3


def test_the_manifest_describes_each_task(package):
    manifest = json.loads((package / "manifest.json").read_text())
    tasks = manifest["program"]["tasks"]
    assert manifest["preprocessing"] is None and [task["preprocessing"]["std"][0] for task in tasks] == [1.0, 1.0, 1.0001]
    assert [task["recipe"] for task in tasks] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert manifest["accuracy"] == {task: found["accuracy"] for task, found in manifest["parity"].items()}


def test_the_readme_speaks_of_each_task(package):
    text = (package / "README.md").read_text()
    assert "3 tasks in one program" in text and "One task" not in text
    for number in range(3):
        assert f"- `task-{number}`: 1,000 multiply-accumulates; input raw values, then minus [0.0, 0.0, 0.0]" in text
        assert f"outputs {5 * number} to {5 * number + 4}, labels 10, 11, 12, 13, 14" in text
    assert "divided by [1.0001, 1.0001, 1.0001] per channel; outputs 10 to 14" in text
    printed = models.readme_output(package).splitlines()
    with np.load(package / "golden.npz") as golden:
        logits = golden["y"][0]
    answers = np.array(" ".join(printed[:-1]).replace("[", " ").replace("]", " ").split("classes of task-2:")[1].split(), np.int64)
    assert np.array_equal(answers, logits[:, 10:].argmax(1))


def test_the_convs_lie_in_flash_once(package):
    text = (package / "weights.c").read_text()
    assert text.count("_conv1_values_codes[") == 1 and text.count("_linear_values_codes[") == 3
    program = json.loads((package / "manifest.json").read_text())["program"]
    assert [task["first_output"] for task in program["tasks"]] == [0, 5, 10]
    assert len({record["conv1"] for record in program["weights"].values()}) == 1
    assert len({record["conv2"] for record in program["weights"].values()}) == 3


def test_the_readmes_code_runs(package):
    assert "recorded outputs: 0.000 output steps" in models.readme_output(package)


def test_a_changed_value_of_one_task_fails(package, tmp_path):
    """The codebook of one task's own slots in conv2."""
    folder = Path(shutil.copytree(package, tmp_path / "copy"))
    before, after = (folder / "weights.c").read_text().split("tsn_task_2_conv2_values_codebook[", 1)
    (folder / "weights.c").write_text(f"{before}tsn_task_2_conv2_values_codebook[{after.replace(' 12,', ' 90,', 1)}")
    with pytest.raises(GateError, match="`weights.c` has sha256"):
        verify_package(folder)


def test_what_cannot_be_joined_is_refused(given, package, tmp_path):
    with pytest.raises(TargetError, match="`cpu_onnxruntime` runs one model a file"):
        deliver_jointly(*given, load_target("cpu_onnxruntime"), tmp_path / "p")
    with pytest.raises(ExportError, match="exists already"):
        deliver_jointly(*given, TARGET, package)
    with pytest.raises(ExportError, match="3,072 bytes of flash, the program takes"):
        deliver_jointly(*given, TARGET.model_copy(update={"flash_kib": 3}), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
