"""Generated programs, compiled and run: the numbers, the bytes, and what tasks share."""

import copy
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.fixed_point import fixed_point
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import Convolution, IntegerProgram, Pool, Tensor, Window
from tsn_toolkit.export.c.program import generate, write_program
from tsn_toolkit.export.c.reference import quantize_input, run_reference, stored_bytes
from tsn_toolkit.target import Toolchain

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cortex_m  # noqa: E402
from c_models import (  # noqa: E402
    SHAPES,
    ConcatNet,
    ResidualNet,
    answers,
    build,
    examples,
    extracted_of,
    integer_model,
    lowered,
    main_of,
    random_bytes,
)

ARM, AARCH64 = "arm-none-eabi-gcc", "aarch64-linux-gnu-gcc"
SANITIZERS = ("-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
networks = pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")


def recorded(program: IntegerProgram, kind: type[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    """(input bytes, output bytes of the reference), on normal inputs and on bytes over the whole range."""
    normal = stored_bytes(quantize_input(program, examples(kind, 32, seed=5).numpy()), program.source)
    inputs = np.concatenate([normal, random_bytes(program, 32)])
    codes = run_reference(program, inputs.astype(np.int64) + program.source.offset)
    return inputs, stored_bytes(codes, program.target).reshape(len(inputs), -1)


def check(command: list[str], program: IntegerProgram, kind: type[nn.Module]) -> None:
    inputs, expected = recorded(program, kind)
    outputs, best = answers(command, program, inputs)
    assert len(np.unique(expected)) > 30
    assert np.array_equal(outputs, expected)
    assert np.array_equal(best, expected.argmax(1))


def sections(path: Path, size: str = "size") -> dict[str, int]:
    """Section -> bytes of an object or a program."""
    text = subprocess.run([size, "-A", str(path)], capture_output=True, text=True, check=True).stdout
    return {name: int(count) for name, count in re.findall(r"^(\.\S+)\s+(\d+)", text, re.MULTILINE)}


@networks
def test_the_compiled_program_gives_the_references_bytes(kind, tmp_path):
    """Under sanitizers: no access is out of bounds and nothing is undefined."""
    program = lowered(kind)
    sources = generate({"net": program}).files | {"main.c": main_of("net")}
    check([str(build(tmp_path, sources, flags=SANITIZERS))], program, kind)


@pytest.mark.parametrize(("values", "bits"), [(2, 1), (3, 2), (6, 3), (14, 4), (30, 5), (60, 6), (120, 7), (200, 8)])
def test_every_width_of_codes_is_unpacked(values, bits, tmp_path):
    """61 inputs: rows of an odd number of codes begin inside a byte."""
    random = np.random.default_rng(values)
    codes = random.choice(random.permutation(np.arange(-127, 128))[:values], (37, 61, 1, 1)).astype(np.int8)
    source, target = Tensor("x", (61,), 1.0, False), Tensor("y", (37,), 1.0, True)
    factors = fixed_point(random.uniform(-0.001, 0.001, 37), where="linear")
    layer = Convolution("linear", source, target, codes, random.integers(-9999, 9999, 37).astype(np.int32), factors, Window((1, 1)), 1)
    program = IntegerProgram((layer,), source, target)
    generated = generate({"net": program})
    assert generated.constant_bytes["tsn_net_linear_values_codes"] == -(-codes.size * bits // 8)
    assert generated.constant_bytes.get("tsn_net_linear_values_codebook", 0) == (values if bits < 8 else 0)
    inputs = random_bytes(program, 32)
    expected = stored_bytes(run_reference(program, inputs.astype(np.int64) + 128), target)
    outputs, _ = answers([str(build(tmp_path, generated.files | {"main.c": main_of("net")}, flags=SANITIZERS))], program, inputs)
    assert len(np.unique(expected)) > 30
    assert np.array_equal(outputs, expected)


def test_gaps_longer_than_a_byte_are_decoded(tmp_path):
    """Rows of 700 inputs with values at their ends, 254, 255 and 256 slots apart, and a row without any."""
    codes = np.zeros((4, 700, 1, 1), np.int8)
    codes[0, [0, 255, 511, 699], 0, 0], codes[1, [699], 0, 0], codes[3, [254, 510], 0, 0] = [90, -80, 70, 60], [-90], [80, -70]
    source, target = Tensor("x", (700,), 1.0, True), Tensor("y", (4,), 1.0, True)
    layer = Convolution("linear", source, target, codes, np.zeros(4, np.int32), fixed_point([0.004] * 4, where="linear"), Window((1, 1)), 1)
    program = IntegerProgram((layer,), source, target)
    generated = generate({"net": program})
    assert generated.constant_bytes["tsn_net_linear_values_where"] == 5 + 3 + 3, "a byte per value, and one per 255 slots"
    inputs = random_bytes(program, 48)
    expected = stored_bytes(run_reference(program, inputs.astype(np.int64)), target)
    outputs, _ = answers([str(build(tmp_path, generated.files | {"main.c": main_of("net")}, flags=SANITIZERS))], program, inputs)
    assert len(np.unique(expected)) > 30
    assert np.array_equal(outputs, expected)


def test_the_makefile_builds_the_files_that_are_written(tmp_path):
    program = generate({"net": lowered(ResidualNet)})
    write_program(program, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(program.files)
    done = subprocess.run(["make", "size"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^\.bss\.arena +{program.ram_bytes} ", done.stdout, re.MULTILINE)


def test_the_text_is_the_same_every_time():
    first, second = (lowered.__wrapped__(ResidualNet) for _ in range(2))
    assert generate({"net": first}).files == generate({"net": second}).files


@networks
@pytest.mark.parametrize("compiler", ["gcc", ARM, AARCH64])
def test_predicted_bytes_are_those_of_the_object_files(kind, compiler, tmp_path):
    needs(compiler)
    program = generate({"net": lowered(kind)}, toolchain=Toolchain(pointer_bytes=4 if compiler == ARM else 8))
    flags = ("-O1", "-c", "-fdata-sections", "-fno-pie")
    build(tmp_path, {name: program.files[name] for name in ("weights.c", "weights.h")}, compiler=compiler, flags=flags, name="weights.o")
    sources = {name: program.files[name] for name in ("model.c", "model.h", "weights.h")}
    build(tmp_path, sources, compiler=compiler, flags=flags, name="model.o")
    size = compiler.replace("gcc", "size")
    constants = {name.removeprefix(".rodata."): count for name, count in sections(tmp_path / "weights.o", size).items() if ".rodata." in name}
    assert constants == program.constant_bytes
    assert program.flash_bytes == sum(constants.values())
    memory = {name: count for name, count in sections(tmp_path / "model.o", size).items() if re.match(r"\.(bss|data)", name) and count}
    assert memory == {".bss.arena": program.ram_bytes}
    assert program.ram_bytes == program.arenas["net"].size_bytes


@networks
def test_predicted_bytes_are_those_of_a_bare_metal_program(kind, tmp_path):
    """Linked for a Cortex-M3, flash is the prediction, the test's own inputs, and less than 4 bytes of alignment per array."""
    needs(ARM)
    program = lowered(kind)
    generated, inputs = generate({"net": program}, toolchain=Toolchain(pointer_bytes=4)), random_bytes(program, 4)
    elf = sections(cortex_program(tmp_path, generated.files, inputs), "arm-none-eabi-size")
    own = inputs.size + len("0123456789abcdef\n") + 2
    padding = elf[".rodata"] - generated.flash_bytes - own  # tsn_tasks is not used here and left out
    assert 0 <= padding < 4 * (len(generated.constant_bytes) + 3)
    assert 0 <= elf[".bss"] - generated.ram_bytes - program.target.size < 8
    assert ".data" not in elf


def cortex_program(folder: Path, files: dict[str, str], inputs: np.ndarray) -> Path:
    sources = files | {"main.c": cortex_m.main_of("net", inputs), "board.ld": cortex_m.LINKER_SCRIPT}
    flags = (*cortex_m.FLAGS, "-T", "board.ld")
    return build(folder, sources, compiler=ARM, flags=flags)


@networks
def test_the_same_bytes_on_a_cortex_m3(kind, tmp_path):
    needs(ARM, "qemu-system-arm")
    program = lowered(kind)
    inputs, expected = recorded(program, kind)
    elf = cortex_program(tmp_path, generate({"net": program}).files, inputs)
    machine = ["-M", "mps2-an385", "-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(["qemu-system-arm", *machine, "-kernel", str(elf)], capture_output=True, text=True, timeout=120, check=False)
    rows = [bytes.fromhex(line) for line in (done.stdout + done.stderr).split()]
    assert np.array_equal(np.frombuffer(b"".join(rows), np.int8).reshape(len(inputs), -1)[:, :-1], expected)


@networks
def test_the_same_bytes_on_aarch64(kind, tmp_path):
    needs(AARCH64, "qemu-aarch64")
    program = lowered(kind)
    sources = generate({"net": program}).files | {"main.c": main_of("net")}
    path = build(tmp_path, sources, compiler=AARCH64, flags=("-O2", "-static"))
    check(["qemu-aarch64", str(path)], program, kind)


@pytest.fixture(scope="module")
def family() -> dict[str, IntegerProgram]:
    """Three tasks with equal convs, norms of their own (one with negative gains elsewhere) and heads of their own."""
    first = extracted_of(ResidualNet(), seed=0)
    tasks = {}
    for number in range(3):
        model, q, scale = copy.deepcopy(first.model), dict(first.q), dict(first.scale)
        other = extracted_of(ResidualNet(), seed=number)
        model.linear.load_state_dict(other.model.linear.state_dict())
        q["linear"], scale["linear"] = other.q["linear"], other.scale["linear"]
        with torch.no_grad():
            for norm in (model.bn1, model.bn2):
                norm.weight.copy_(norm.weight.roll(number))
        task = replace(first, task=f"task-{number}", model=model, q=q, scale=scale)
        tasks[task.task] = lower(integer_model(task, examples(ResidualNet)), SHAPES[ResidualNet])
    return tasks


def test_shared_layers_are_in_flash_once(family, tmp_path):
    together = generate(family)
    apart = {task: generate({task: program}) for task, program in family.items()}
    for layer in ("conv1", "conv2"):
        assert together.files["weights.c"].count(f"_{layer}_values_codes[") == 1
    assert together.files["weights.c"].count("_linear_values_codes[") == 3
    shared = sum(size for name, size in together.constant_bytes.items() if re.search(r"_conv\d_values_(codes|codebook)", name))
    assert shared > 400
    assert together.flash_bytes <= sum(program.flash_bytes for program in apart.values()) - 2 * shared
    assert together.ram_bytes == max(program.ram_bytes for program in apart.values())
    linked = flash_of(build(tmp_path / "together", with_all(together.files, family), flags=("-O2", "-ffreestanding")))
    single = [
        flash_of(build(tmp_path / task, with_all(program.files, {task: family[task]}), flags=("-O2", "-ffreestanding")))
        for task, program in apart.items()
    ]
    assert linked < sum(single) - 2 * shared, "kernels are shared too"


def test_each_task_of_a_program_gives_its_own_references_bytes(family, tmp_path):
    files = generate(family).files
    for task, program in family.items():
        path = build(tmp_path / task, files | {"main.c": main_of(task.replace("-", "_"))}, flags=SANITIZERS)
        check([str(path)], program, ResidualNet)


def with_all(files: dict[str, str], tasks: dict[str, IntegerProgram]) -> dict[str, str]:
    """The sources with a main that calls every task."""
    calls = "\n".join(f"sum += tsn_run_{task.replace('-', '_')}(input, output);" for task in tasks)
    text = f'#include "model.h"\nstatic int8_t input[4096], output[4096];\nint main(void) {{ int32_t sum = 0; {calls} return (int)sum; }}\n'
    return files | {"main.c": text}


def flash_of(path: Path) -> int:
    """Code and constants of a linked program."""
    found = sections(path)
    return found[".text"] + found[".rodata"]


def test_a_program_of_a_few_operations_compiles(tmp_path):
    """Only kernels that are used are written: an unused one would be a warning."""
    program = lowered(ConcatNet)
    for index in range(1, len(program.operations)):
        part = replace(program, operations=program.operations[:index], target=program.operations[index - 1].target)
        build(tmp_path / str(index), generate({"net": part}).files | {"main.c": main_of("net")})
    pool = next(item for item in program.operations if isinstance(item, Pool))
    alone = IntegerProgram((pool,), pool.source, pool.target)
    build(tmp_path / "alone", generate({"net": alone}).files | {"main.c": main_of("net")})
    assert generate({"net": alone}).ram_bytes == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one task"),
        (["a/b"], "Task name 'a/b'"),
        (["a-b", "a_b"], r"\['a-b', 'a_b'\] become the same C name"),
        (["A", "a", "b"], r"\['A', 'a'\] become the same C name"),
    ],
)
def test_task_names_that_c_cannot_take_are_named(names, message):
    program = lowered(ConcatNet)
    with pytest.raises(ExportError, match=message):
        generate(dict.fromkeys(names, program))
