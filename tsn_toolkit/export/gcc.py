"""C sources that a gcc compiles for Linux on Arm or for a Cortex-M. See `export.runtime` for what each function is for.

    model.c, model.h, weights.c, weights.h    the tasks; nothing else needs to go into a firmware of one's own
    probabilities.c                           softmax and argmax of outputs, for a firmware that asks for them
    Makefile                                  builds them for the target, and for this computer
    run.c, run_board.c, board.ld              programs that read inputs and write outputs, on a computer or on a bare Cortex-M

The programs compute what `c/reference.py` computes, byte by byte; there is one arithmetic and no choice in it.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export.artefact import Artefact, ExportRequest
from tsn_toolkit.export.c.compile import compiler_version, measure, require_tools
from tsn_toolkit.export.c.footprint import Footprint, check_limits, largest_layer, predict
from tsn_toolkit.export.c.lowering import lower
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.program import CProgram, Weights, generate, weights_of, write_program
from tsn_toolkit.export.c.read_back import WeightText
from tsn_toolkit.export.c.reference import quantize_input, run_reference
from tsn_toolkit.export.integer_share import IntegerShare
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.target import Target

DISTRIBUTION = ""
REQUIREMENTS = ("gcc",)
VENDOR_INT8 = None
MODEL_FILE = "model.c"
WEIGHTS_FILE = "weights.c"
PROBABILITIES_FILE = "probabilities.c"
INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_BATCH = 20
"""Examples that the reference computes at a time; its windows are nine times an activation."""

_README_CODE = """\
import json
import subprocess
import tempfile

import numpy as np

with open("manifest.json", encoding="utf-8") as file:
    tasks = json.load(file)["program"]["tasks"]
golden = np.load("{golden_file}")
x = golden["x"].astype(np.float32)

logits = []
with tempfile.TemporaryDirectory() as folder:
    program = folder + "/run"
    subprocess.run(["gcc", "-std=c99", "-O2", "model.c", "weights.c", "run.c", "-o", program], check=True)
    for task in tasks:
        offset = task["input_offset"]
        codes = np.clip(np.rint(x / np.float32(task["input_step"])), offset - 128, offset + 127) - offset
        request = bytes([task["index"]]) + codes.astype(np.int8).tobytes()
        answer = subprocess.run([program], input=request, capture_output=True, check=True).stdout
        codes = np.frombuffer(answer, np.int8).reshape(len(x), -1) + np.float32(task["output_offset"])
        logits.append(codes * np.float32(task["output_step"]))
logits = np.concatenate(logits, axis=1)
"""

_README_PROBABILITIES = """\
For probabilities compile `probabilities.c` too, and call behind a run

```c
{function}(output, output);  /* (byte + 128) / 256 each; integers alone */
```

"""

_README_NOTE = """\
On the device, compile `model.c` and `weights.c` into the firmware and call

```c
#include "model.h"

static int8_t input[TSN_LARGEST_INPUT_SIZE], output[TSN_LARGEST_OUTPUT_SIZE];

int32_t best = tsn_run({constant}, input, output);
```

{probabilities}`model.h` says how bytes stand for real values. `make` builds `libtsn.a` with {compiler}, `make firmware.elf` a program that reads
inputs and writes outputs. Linked, the program takes {flash_bytes:,} bytes of flash ({predicted_flash_bytes:,} predicted) and {ram_bytes:,} bytes of
RAM with its stack ({predicted_ram_bytes:,} predicted). Not timed: {emulator} is an emulator."""


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write the sources of one task, after a program for the target was compiled and measured.

    Raises:
        TargetError: a compiler, an emulator or make is missing or too old.
        ExportError: the model has no integer form in C, or exceeds the target's flash or RAM.
    """
    require_tools(request.target)
    reference, program = lower_task(request)
    task = request.extracted.task
    record, parts = write_measured({task: program}, {task: weights_of(program)}, request.target, out_dir)
    return Artefact(
        MODEL_FILE,
        reference,
        INPUT_NAME,
        OUTPUT_NAME,
        parts,
        versions(request.target),
        output_step=program.target.step,
        quantization=reference.mode,
        notes=tuple(reference.notes),
        channels={"requantized_channels": {name: list(rows) for name, rows in reference.requantized.items() if rows}, "program": record},
    )


def rehearse(request: ExportRequest) -> None:
    """Whether the model has an integer form in C; how much flash and RAM it takes depends on the task.

    Raises:
        TargetError, ExportError: as `export`.
    """
    require_tools(request.target)
    lower_task(request)


def lower_task(request: ExportRequest) -> tuple[IntegerModel, IntegerProgram]:
    """The integer reference of a task and its operations.

    Raises:
        ExportError: the model has no integer form in C.
    """
    reference = request.integer_model()
    return reference, lower(reference, request.example.shape[1:])


def write_measured(
    tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights], target: Target, out_dir: Path
) -> tuple[dict[str, Any], dict[str, int]]:
    """Predict, check, compile, measure, check again, and write the sources of one or several tasks.

    Args:
        tasks: name -> its operations.
        weights: task -> layer -> where its weights come from.
        target: with a toolchain.
        out_dir: an existing folder.

    Returns:
        (what the manifest says of the program, bytes of flash by part).

    Raises:
        TargetError: a tool is missing.
        ExportError: the program exceeds a limit of the target, by the prediction or as measured; or it does not compile.
    """
    toolchain = require_tools(target)
    program = generate(tasks, weights=weights, toolchain=toolchain)
    predicted = predict(program, tasks, toolchain)
    check_limits(predicted, tasks, weights, target)
    found = measure(program, tasks, toolchain)
    check_limits(found, tasks, weights, target)
    write_program(program, out_dir)
    return _record(program, tasks, weights, predicted, found), {"constants": program.flash_bytes, "code": found.flash_bytes - program.flash_bytes}


def versions(target: Target) -> dict[str, str]:
    """Of everything that shaped the files.

    Raises:
        TargetError: the compiler is missing or older than the target asks for.
    """
    return {
        **{name: importlib.metadata.version(name) for name in ("torch", "brevitas")},
        "gcc": compiler_version(require_tools(target).compiler, target),
    }


def check_weights(model: Path, extracted: ExtractedModel, reference: IntegerModel) -> None:
    """Compare the weights in `weights.c` with the store's integers; channels that had to be rounded anew with the reference's.

    Raises:
        ExportError: a layer is missing or differs.
    """
    records = read_manifest(model.parent)["program"]["weights"][extracted.task]
    text = WeightText(model.with_name(WEIGHTS_FILE).read_text(encoding="utf-8"))
    for layer, codes in extracted.q.items():
        expected = reference.exported(layer, codes, negated=False)
        found = text.weights(records[layer], codes.shape)
        if not np.array_equal(found, expected):
            channels = np.flatnonzero((found != expected).reshape(len(codes), -1).any(axis=1)).tolist()
            raise ExportError(f"`{WEIGHTS_FILE}`: weights of layer `{layer}`, channels {channels[:8]}, are not the store's integers.")


def admissible_outputs(reference: nn.Module, x: torch.Tensor) -> Iterator[tuple[NDArray[np.float32], str]]:
    """Outputs of the one arithmetic that a program has."""
    assert isinstance(reference, IntegerModel)
    yield reference_outputs(lower(reference, x.shape[1:]), x), "integer"


def reference_outputs(program: IntegerProgram, x: torch.Tensor) -> NDArray[np.float32]:
    """Real outputs (n, ...) of a program for real inputs x (n, ...)."""
    codes = np.concatenate([run_reference(program, quantize_input(program, chunk.numpy())) for chunk in x.to(torch.float32).split(_BATCH)])
    return codes.astype(np.float32) * np.float32(program.target.step)


def cannot_run() -> str:
    """A machine without compiler or emulator is refused by `export`."""
    return ""


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """None: a program has no session."""
    return {}


def integer_share(model: Path, manifest: Mapping[str, Any]) -> IntegerShare:
    """All multiply-accumulates, after a look into the sources: a program without a floating type has no float kernel.

    Raises:
        GateError: the sources hold a floating type.
    """
    for name in (MODEL_FILE, WEIGHTS_FILE, *({PROBABILITIES_FILE} & set(manifest["program"]["files"]))):
        found = re.search(r"\b(float|double)\b", model.with_name(name).read_text(encoding="utf-8"))
        if found:
            raise GateError(f"`{name}` holds the type `{found[0]}`; a generated program has integers alone. Export the task again.")
    return IntegerShare(1.0, manifest["macs"], manifest["macs"], manifest["program"]["kernel_calls"], ())


def export_dense_fp32(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """There is none: C programs are integer.

    Raises:
        TargetError: always.
    """
    raise TargetError("A C target has no float32 baseline and is not timed here. Name a CPU target where latencies are asked for.")


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and a C compiler alone."""
    return _README_CODE.format(golden_file=golden_file)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """How the device's own firmware calls the tasks, and what they occupy."""
    program, toolchain = manifest["program"], manifest["target"]["toolchain"]
    first = program["tasks"][0]
    return _README_NOTE.format(
        constant=first["constant"],
        probabilities=_README_PROBABILITIES.format(function=first["softmax"]) if first["softmax"] else "",
        compiler=toolchain["compiler"],
        emulator=toolchain["emulator"][0],
        flash_bytes=program["measured"]["flash_bytes"],
        ram_bytes=program["measured"]["ram_bytes"],
        predicted_flash_bytes=program["predicted"]["flash_bytes"],
        predicted_ram_bytes=program["predicted"]["ram_bytes"],
    )


def _record(
    program: CProgram, tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights], predicted: Footprint, found: Footprint
) -> dict[str, Any]:
    """What the manifest says of a program."""
    return {
        "files": sorted(program.files),
        "tasks": [
            {
                "name": task,
                "index": index,
                "constant": f"TSN_{re.sub(r'[^A-Za-z0-9]', '_', task).upper()}_TASK",
                "input_step": lowered.source.step,
                "input_offset": lowered.source.offset,
                "output_step": lowered.target.step,
                "output_offset": lowered.target.offset,
                "output_size": lowered.target.size,
                "softmax": program.softmaxes[task],
            }
            for index, (task, lowered) in enumerate(tasks.items())
        ],
        "weights": program.weight_records,
        "kernel_calls": program.calls,
        "predicted": _footprint(predicted),
        "measured": _footprint(found),
        "prediction_error": {
            "flash": (predicted.flash_bytes - found.flash_bytes) / found.flash_bytes,
            "ram": (predicted.ram_bytes - found.ram_bytes) / found.ram_bytes,
        },
        "arena_bytes": program.ram_bytes,
        "largest_layer_bytes": {task: _largest(task, tasks, weights) for task in tasks},
    }


def _largest(task: str, tasks: Mapping[str, IntegerProgram], weights: Mapping[str, Weights]) -> dict[str, Any]:
    _, layer, size = largest_layer({task: tasks[task]}, weights)
    return {"layer": layer, "flash_bytes": size}


def _footprint(found: Footprint) -> dict[str, int]:
    return {"flash_bytes": found.flash_bytes, "ram_bytes": found.ram_bytes}
