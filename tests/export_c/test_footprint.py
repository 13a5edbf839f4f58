"""Flash and RAM: the prediction, the limits, and the layer that a message names."""

import shutil
import sys
from pathlib import Path

import pytest

from tsn_toolkit.errors import ExportError, TargetError
from tsn_toolkit.export.c.compile import compiler_version, measure, require_tools
from tsn_toolkit.export.c.footprint import Footprint, check_limits, describe_peak, largest_layer, predict
from tsn_toolkit.export.c.program import generate, weights_of
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import ActivationNet, ConcatNet, PlainNet, ResidualNet, SeveralBlocks, SoftmaxNet, lowered  # noqa: E402

TARGETS = ["edge_cortex_m0", "edge_cortex_m4", "edge_cortex_m7", "edge_cortex_m33", "edge_cortex_m55", "edge_linux_aarch64_c"]


def tasks_of(*kinds):
    return {f"task{index}": lowered(kind) for index, kind in enumerate(kinds)}


CASES = [*((name, kinds) for name in TARGETS for kinds in ((SeveralBlocks,), (ActivationNet, SoftmaxNet)))]


@pytest.mark.parametrize(("name", "kinds"), [*CASES, ("edge_cortex_m4", (PlainNet, ConcatNet, ResidualNet))])
def test_the_prediction_is_near_the_linked_program(name, kinds):
    target, tasks = load_target(name), tasks_of(*kinds)
    missing = [tool for tool in ("make", target.toolchain.compiler, target.toolchain.emulator[0]) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    program = generate(tasks, toolchain=target.toolchain)
    predicted, found = predict(program, tasks, target.toolchain), measure(program, tasks, target.toolchain)
    assert predicted.flash_bytes == pytest.approx(found.flash_bytes, rel=0.1)
    assert 0 <= predicted.ram_bytes - found.ram_bytes <= 400, "the stack is rounded up"
    assert found.flash_bytes > program.flash_bytes + 1000 and found.ram_bytes > program.ram_bytes


def test_too_much_flash_names_the_largest_layer():
    tasks = tasks_of(SeveralBlocks, ResidualNet)
    weights = {task: weights_of(program) for task, program in tasks.items()}
    sizes = {
        (task, layer): item.values.size_bytes + item.selection_bytes + 9 * item.values.shape[0]
        for task, layers in weights.items()
        for layer, item in layers.items()
    }
    (task, layer), size = max(sizes.items(), key=lambda pair: pair[1])
    assert (task, layer, size) == ("task0", "blocks.1.conv2", 12 * 12 * 9 // 2 + 16 + 12 * 9)
    assert largest_layer(tasks, weights) == (task, layer, size)
    message = rf"`edge_cortex_m0` has 262,144 bytes of flash, the program takes 262,145.*`{layer}` of task `task0`: 772 bytes"
    with pytest.raises(ExportError, match=message):
        check_limits(Footprint(262_145, 0), tasks, weights, load_target("edge_cortex_m0"))
    check_limits(Footprint(262_144, 16_384), tasks, weights, load_target("edge_cortex_m0"))


def test_too_much_ram_names_the_moment_and_what_is_in_memory():
    """The addition of ResidualNet reads two activations of 8 x 8 x 8 and writes a third."""
    tasks = tasks_of(ResidualNet)
    weights = {"task0": weights_of(tasks["task0"])}
    assert describe_peak(tasks, weights).startswith("The most is in use at `relu_1` of task `task0`: 1,536 bytes (`relu` 512,")
    with pytest.raises(ExportError, match=r"`edge_cortex_m0` has 16,384 bytes of RAM, the program takes 16,385\. The most is in use at `"):
        check_limits(Footprint(0, 16_385), tasks, weights, load_target("edge_cortex_m0"))


def test_a_target_without_limits_takes_everything():
    tasks = tasks_of(ResidualNet)
    check_limits(Footprint(10**12, 10**12), tasks, {"task0": weights_of(tasks["task0"])}, load_target("edge_linux_aarch64_c"))


def test_a_missing_compiler_is_named_with_the_line_that_installs_it(monkeypatch):
    target = load_target("edge_cortex_m4")
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in ("arm-none-eabi-gcc", "qemu-system-arm") else f"/usr/bin/{tool}")
    line = "apt-get install gcc make gcc-arm-none-eabi qemu-system-arm"
    with pytest.raises(TargetError, match=f"needs arm-none-eabi-gcc, qemu-system-arm, which is not installed. Install it: {line}"):
        require_tools(target)
    with pytest.raises(TargetError, match="has no `toolchain`"):
        require_tools(target.model_copy(update={"toolchain": None}))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_an_old_compiler_is_named():
    target = load_target("edge_cortex_m4")
    assert compiler_version("gcc", target).split(".")[0].isdigit()
    with pytest.raises(TargetError, match=r"needs gcc >= 99\.1, found \d+"):
        compiler_version("gcc", target.model_copy(update={"minimum_version": "99.1"}))
