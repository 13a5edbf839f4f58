"""Softmax in integers: against floats, against the C text compiled for every processor here, in a network, and behind a run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c import softmax
from tsn_toolkit.export.c.elf import linked_bytes
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import IntegerProgram, Softmax, Tensor
from tsn_toolkit.export.c.program import generate, write_program
from tsn_toolkit.export.c.reference import quantize_input, run_reference, stored_bytes
from tsn_toolkit.export.c.softmax import PROBABILITY_STEP, power_of, powers_of, softmax_codes
from tsn_toolkit.export.c.templates import read
from tsn_toolkit.export.rehearsal import check_exportable
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.quantizers.activations import build_integer_model
from tsn_toolkit.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parent))
from c_models import (  # noqa: E402
    SHAPES,
    ConcatNet,
    ResidualNet,
    SoftmaxNet,
    build,
    examples,
    extracted_of,
    integer_model,
    lowered,
    random_bytes,
)

ARM, AARCH64 = "arm-none-eabi-gcc", "aarch64-linux-gnu-gcc"
POWERS = 3
"""Of so many cases every power is compared."""
SANITIZERS = ("-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")


def float_softmax(codes: np.ndarray, step: float) -> np.ndarray:
    """Float64 probabilities of codes (n,)."""
    powers = np.exp(step * (codes.astype(np.float64) - codes.max()))
    return powers / powers.sum()


def bound(classes: int) -> float:
    """The stated largest distance between code and 256 * probability."""
    return 0.5 + 256 * (1.5 * (classes + 1) * 2.0**-31 + 2.0**-21)


def assert_near(codes: np.ndarray, step: float) -> None:
    found = softmax_codes(codes.reshape(1, -1), powers_of(step, where="a test"))[0]
    wanted = 256 * float_softmax(codes, step)
    assert found.min() >= 0 and found.max() <= 255
    assert np.abs(found - np.minimum(wanted, 255)).max() <= bound(len(codes))
    order = np.argsort(codes, kind="stable")
    assert (np.diff(found[order]) >= 0).all() and all(len(set(found[codes == code])) == 1 for code in set(codes.tolist()))


def test_by_hand():
    halves = powers_of(np.log(2), where="a test")
    assert halves[16:20].tolist() == [2**31, 2**30, 2**29, 2**28] and halves[:2].tolist() == [2**31, 2**15]
    assert softmax_codes(np.array([[5, 5], [0, 1], [-128, 127]]), halves).tolist() == [[128, 128], [85, 171], [0, 255]]
    assert softmax_codes(np.array([[7]]), halves).tolist() == [[255]], "one class has probability 1, which 255 stands for"
    assert softmax_codes(np.array([[3, 3, 3]]), halves).tolist() == [[85, 85, 85]]


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 255, 256, 257, 1000])
@pytest.mark.parametrize("step", [1e-9, 0.01, 0.7, 40.0, 1e30])
def test_equal_and_extreme_codes_are_near_the_float_softmax(classes, step):
    for codes in (np.zeros(classes, int), np.full(classes, -128), np.arange(classes) % 256, np.where(np.arange(classes) % 7, -128, 127)):
        assert_near(codes, step)
    one_above = np.full(classes, -128)
    one_above[classes // 2] = 127
    assert_near(one_above, step)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 1000), st.floats(-7, 3), st.sampled_from([(-128, 127), (0, 255), (-3, 4), (100, 127)]), st.integers(0, 2**32 - 1))
def test_the_error_stays_within_the_stated_bound(classes, exponent, span, seed):
    low, high = span
    assert_near(np.random.default_rng(seed).integers(low, high + 1, classes), 10.0**exponent)
    assert bound(1000) < 0.501


@settings(max_examples=200, deadline=None)
@given(st.floats(-9, 3))
def test_powers_are_off_by_one_and_a_half_units_at_most(exponent):
    step, below = 10.0**exponent, np.arange(256)
    found = power_of(below, powers_of(step, where="a test"))
    assert np.abs(found - 2.0**31 * np.exp(-step * below)).max() <= 1.5 + 1e-4 and found[0] == 2**31 and (np.diff(found) <= 0).all()


def test_a_step_that_is_no_positive_number_is_refused():
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ExportError, match=rf"step of the input of softmax `head` must be positive and finite, got {step}"):
            powers_of(step, where="head")


def kernel_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """(powers, codes int8) over steps and numbers of classes, extremes and ties among them."""
    random = np.random.default_rng(11)
    cases = []
    for number in range(60):
        classes = (1, 2, 3, 10, 100, 257, 1000)[number % 7]
        codes = random.integers(-128, 128, classes) if number % 3 else random.choice([-128, 127], classes)
        cases.append((powers_of(float(10 ** random.uniform(-4, 1.5)), where="a test"), codes.astype(np.int8)))
    return sensitive_cases() + cases


def sensitive_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Cases in which a divisor of one bit less or more gives another byte."""
    powers, codes = powers_of(0.02, where="a test"), np.random.default_rng(3).integers(-128, 128, (30_000, 10))
    found = softmax_codes(codes, powers)
    chosen = []
    for bits in (22, 24):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(softmax, "_DIVISOR_BITS", bits)
            chosen.append(np.flatnonzero((softmax_codes(codes, powers) != found).any(1))[:3])
    rows = np.concatenate(chosen)
    assert len(rows) == 6
    return [(powers, row.astype(np.int8)) for row in codes[rows]]


def kernel_main(cases: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """C text: kernels, the cases, and `run`, which hands every byte of every result to `put`.

    Behind the cases the last of them is computed once more in place, and all 256 powers of the last three are put out.
    """
    arrays, calls = [], []
    for number, (powers, codes) in enumerate(cases):
        arrays.append(f"static const uint32_t powers_{number}[32] = {{{', '.join(f'{value}u' for value in powers)}}};")
        arrays.append(f"static const int8_t codes_{number}[{len(codes)}] = {{{', '.join(map(str, codes))}}};")
        calls.append(f"softmax(codes_{number}, powers_{number}, {len(codes)}, found); show({len(codes)});")
    powers, codes = cases[-1]
    calls.append(f"for (int i = 0; i < {len(codes)}; i++) {{ found[i] = codes_{len(cases) - 1}[i]; }}")
    calls.append(f"softmax(found, powers_{len(cases) - 1}, {len(codes)}, found); show({len(codes)});")
    for number in range(len(cases) - POWERS, len(cases)):
        calls.append(f"for (int d = 0; d < 1024; d++) {{ put((uint8_t)(power_of(powers_{number}, d / 4) >> d % 4 * 8)); }}")
    kernels = "\n".join(read(f"kernels/{name}.c") for name in ("argmax", "softmax"))
    show = "static void show(int size) { for (int i = 0; i < size; i++) { put((uint8_t)found[i]); } }"
    body = "\n    ".join(calls)
    return f"{kernels}\n{chr(10).join(arrays)}\nstatic int8_t found[1000];\n{show}\nstatic void run(void)\n{{\n    {body}\n}}\n"


def expected_bytes(cases: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    results = [softmax_codes(codes.astype(np.int64).reshape(1, -1), powers)[0] - 128 for powers, codes in [*cases, cases[-1]]]
    below = np.arange(256)
    every = [power_of(below, powers).astype("<u4").view(np.int8) for powers, _ in cases[-POWERS:]]
    return np.concatenate([*results, *every])


@pytest.mark.parametrize(("compiler", "flags", "emulator"), [("gcc", SANITIZERS, ()), (AARCH64, ("-O2", "-static"), ("qemu-aarch64",))])
def test_the_compiled_kernel_gives_the_references_bytes(compiler, flags, emulator, tmp_path):
    needs(compiler, *emulator)
    cases = kernel_cases()
    text = f"#include <stdint.h>\n#include <stdio.h>\nstatic void put(uint8_t byte) {{ putchar(byte); }}\n{kernel_main(cases)}"
    path = build(tmp_path, {"main.c": f"{text}int main(void) {{ run(); return 0; }}\n"}, compiler=compiler, flags=flags)
    done = subprocess.run([*emulator, str(path)], capture_output=True, timeout=120, check=True)
    assert np.array_equal(np.frombuffer(done.stdout, np.int8), expected_bytes(cases))


@pytest.mark.parametrize(
    "name", ["edge_cortex_m0", "edge_cortex_m4", "edge_cortex_m7", "edge_cortex_m33", "edge_cortex_m55"], ids=lambda name: name.removeprefix("edge_")
)
def test_the_kernel_on_every_board_gives_the_references_bytes(name, tmp_path):
    """With the board file of a package, whose `tsn_run` is the kernel here: input is a case's number, output its bytes."""
    toolchain = load_target(name).toolchain
    needs("make", toolchain.compiler, toolchain.emulator[0])
    cases = kernel_cases()[:20]
    files = generate({"net": lowered(SoftmaxNet)}, toolchain=toolchain).files
    total = len(expected_bytes(cases))
    files["model.h"] = (
        "#include <stdint.h>\ntypedef struct { int32_t input_size, output_size; } tsn_task;\n#define TSN_TASKS 1\n#define TSN_LARGEST_INPUT_SIZE 1\n"
        f"#define TSN_LARGEST_OUTPUT_SIZE {total}\nextern const tsn_task tsn_tasks[TSN_TASKS];\nint32_t tsn_run(int32_t task, const int8_t *input, "
        "int8_t *output);\n"
    )
    put = "static int8_t *next;\nstatic void put(uint8_t byte) { *next++ = (int8_t)byte; }\n"
    answer = "int32_t tsn_run(int32_t task, const int8_t *input, int8_t *output)\n{\n    next = output;\n    run();\n    return task + *input;\n}\n"
    files["model.c"] = f'#include "model.h"\n{put}{kernel_main(cases)}const tsn_task tsn_tasks[1] = {{{{1, {total}}}}};\n{answer}'
    files["weights.c"] = "typedef int nothing;\n"
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "input.bin").write_bytes(bytes([0, 0]))
    done = subprocess.run(["make", "-s", "emulate"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.frombuffer((tmp_path / "output.bin").read_bytes(), np.int8), expected_bytes(cases))


def test_the_reference_of_a_network_goes_through_probabilities():
    program = lowered(SoftmaxNet)
    [operation] = [item for item in program.operations if isinstance(item, Softmax)]
    assert (operation.target.step, operation.target.signed, operation.target.shape) == (PROBABILITY_STEP, False, (9,))
    until = IntegerProgram(program.operations[:2], program.source, operation.target)
    codes = quantize_input(program, examples(SoftmaxNet).numpy())
    found = run_reference(until, codes)
    logits = run_reference(IntegerProgram(program.operations[:1], program.source, operation.source), codes)
    wanted = np.stack([float_softmax(row, operation.source.step) for row in logits])
    assert np.abs(found - np.minimum(256 * wanted, 255)).max() <= bound(9) and len(np.unique(found)) > 30


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
@pytest.mark.parametrize("called", ["function", "torch", "method", "module", "module without a dimension"])
def test_every_way_to_call_softmax_is_the_same_operation(called):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(24, 7)
            if called.startswith("module"):
                self.softmax = nn.Softmax(None if "without" in called else 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.linear(x)
            if called == "method":
                return x.softmax(-1)
            if called == "torch":
                return torch.softmax(x, 1)
            return self.softmax(x) if called.startswith("module") else nn.functional.softmax(input=x, dim=-1)

    extracted = extracted_of(Net())
    model = build_integer_model(extracted.model, extracted.q, extracted.scale, examples(SoftmaxNet))
    operations = lower(model, (24,)).operations
    assert [type(item).__name__ for item in operations] == ["Convolution", "Softmax"]


def test_a_softmax_over_an_image_is_refused_before_anything_is_trained():
    needs(ARM, "qemu-system-arm", "make")
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1), nn.Flatten(), nn.Linear(256, 2))
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    message = r"Target `edge_cortex_m4` cannot take this network, so nothing is trained: Softmax `1` runs over dimension 1 of 4"
    with pytest.raises(ExportError, match=message):
        check_exportable(network, graph, [load_target("edge_cortex_m4")])


ANSWERS = """
#include <stdio.h>
#include "model.h"

static int8_t input[TSN_LARGEST_INPUT_SIZE], output[TSN_LARGEST_OUTPUT_SIZE], probabilities[TSN_LARGEST_OUTPUT_SIZE];

int main(void)
{{
    while (fread(input, 1, TSN_{macro}_INPUT_SIZE, stdin) == TSN_{macro}_INPUT_SIZE) {{
        int32_t best = tsn_run_{name}(input, output);
        tsn_softmax_{name}(output, probabilities);
        fwrite(probabilities, 1, TSN_{macro}_OUTPUT_SIZE, stdout);
        putchar(best == tsn_argmax_{name}(output));
    }}
    return 0;
}}
"""


@pytest.mark.parametrize(("compiler", "flags", "emulator"), [("gcc", SANITIZERS, ()), (AARCH64, ("-O2", "-static"), ("qemu-aarch64",))])
def test_a_firmware_gets_probabilities_of_each_task(compiler, flags, emulator, tmp_path):
    needs(compiler, *emulator)
    kinds = {"a-b": ResidualNet, "c": ConcatNet}
    program = generate({task: lowered(kind) for task, kind in kinds.items()})
    assert program.softmaxes == {"a-b": "tsn_softmax_a_b", "c": "tsn_softmax_c"}
    for task, kind in kinds.items():
        network, name = lowered(kind), task.replace("-", "_")
        inputs = random_bytes(network, 24)
        logits = run_reference(network, inputs.astype(np.int64) + network.source.offset)
        wanted = softmax_codes(logits, powers_of(network.target.step, where=task)) - 128
        sources = program.files | {"main.c": ANSWERS.format(name=name, macro=name.upper())}
        path = build(tmp_path / name, sources, compiler=compiler, flags=flags)
        done = subprocess.run([*emulator, str(path)], input=inputs.tobytes(), capture_output=True, timeout=120, check=True)
        found = np.frombuffer(done.stdout, np.int8).reshape(len(inputs), -1)
        assert np.array_equal(found[:, :-1], wanted) and found[:, -1].all() and len(np.unique(wanted)) > 10
        floats = np.stack([float_softmax(row, network.target.step) for row in logits])
        assert np.abs((found[:, :-1] + 128.0) / 256 - floats).max() < 1 / 255


def test_outputs_that_are_probabilities_already_get_no_softmax(tmp_path):
    needs("gcc")
    program = lowered(SoftmaxNet)
    ended = IntegerProgram(program.operations[:2], program.source, program.operations[1].target)
    generated = generate({"net": ended})
    assert generated.softmaxes == {"net": ""} and "tsn_softmax" not in "".join(generated.files.values())
    assert "int32_t tsn_argmax_net(const int8_t *output);" in generated.files["model.h"]
    assert "#define TSN_NET_OUTPUT_OFFSET 128" in generated.files["model.h"] and "OUTPUT_STEP 0.00390625f" in generated.files["model.h"]
    build(tmp_path, generated.files | {"main.c": "int main(void) { return 0; }\n"})


def symbols(path: Path, tool: str) -> str:
    return subprocess.run([tool, str(path)], capture_output=True, text=True, check=True).stdout


def test_a_program_that_asks_for_no_probabilities_has_none_of_it_in_flash(tmp_path):
    """The ELF that is measured and predicted, and one whose board file calls the function: 128 bytes of table and less than a KiB of code."""
    toolchain = load_target("edge_cortex_m4").toolchain
    needs("make", toolchain.compiler)
    generated = generate({"net": lowered(ResidualNet), "other": lowered(ConcatNet)}, toolchain=toolchain)
    assert "softmax" not in generated.files["model.c"] + generated.files["weights.c"] and "softmax" not in generated.calls
    write_program(generated, tmp_path)
    subprocess.run(["make", "-s", "firmware.elf", "libtsn.a"], cwd=tmp_path, check=True, timeout=100)
    assert not re.search(r"softmax|powers|tsn_argmax", symbols(tmp_path / "firmware.elf", "arm-none-eabi-nm"))
    assert "T tsn_softmax_net" in symbols(tmp_path / "libtsn.a", "arm-none-eabi-nm")
    board = tmp_path / "run_board.c"
    called = "tsn_run(task, input, output);\n        tsn_softmax_net(output, output);"
    board.write_text(board.read_text().replace("tsn_run(task, input, output);", called))
    flags = "-std=c99 -O2 -ffreestanding -ffunction-sections -nostdlib -Wl,--gc-sections -T board.ld".split()
    command = [toolchain.compiler, *toolchain.flags, *flags, "run_board.c", "libtsn.a", "-lgcc", "-o", "asked.elf"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=100)
    found = symbols(tmp_path / "asked.elf", "arm-none-eabi-nm")
    assert "tsn_softmax_net" in found and "tsn_softmax_other" not in found and "tsn_argmax" not in found
    assert 128 < linked_bytes(tmp_path / "asked.elf").flash_bytes - linked_bytes(tmp_path / "firmware.elf").flash_bytes < 1024


def test_the_bytes_of_a_tensor_with_an_offset_are_softened_alike():
    """Unsigned codes differ from their bytes by 128, which no difference of codes sees."""
    program = lowered(SoftmaxNet)
    assert SHAPES[SoftmaxNet] == (24,)
    source = Tensor("x", (6,), 0.05, False)
    operation = Softmax(source, Tensor("y", (6,), PROBABILITY_STEP, False), powers_of(0.05, where="a test"))
    codes = np.random.default_rng(5).integers(0, 256, (8, 6))
    found = run_reference(IntegerProgram((operation,), source, operation.target), codes)
    assert np.array_equal(found, softmax_codes(codes - 128, operation.powers)) and np.array_equal(stored_bytes(found, operation.target), found - 128)
    assert program.target.signed


def test_probabilities_of_the_integer_model_are_those_of_the_float_one():
    """What a user sees: the class probabilities of a network within two hundredths of the float network's."""
    extracted = extracted_of(ResidualNet())
    x = examples(ResidualNet, 64)
    program = lower(integer_model(extracted, x), SHAPES[ResidualNet])
    codes = softmax_codes(run_reference(program, quantize_input(program, x.numpy())), powers_of(program.target.step, where="net"))
    with torch.no_grad():
        wanted = extracted.model(x).softmax(1).numpy()
    assert np.abs(codes / 256 - wanted).max() < 0.05 and np.abs(codes / 256 - wanted).mean() < 0.01
