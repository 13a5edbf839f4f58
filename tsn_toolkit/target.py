"""Hardware targets: one YAML file each, read into a frozen, validated value.

A target's name is its file's stem. Names resolve from the working folder's `hw_targets/`, then from the package's own data; a path works too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsn_toolkit.errors import TargetError
from tsn_toolkit.registry import data_folders, did_you_mean
from tsn_toolkit.vocabulary import MAX_CODE


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class OperationSupport(_Frozen):
    """How the runtime's integer kernel of one operation reads its operands.

    Attributes:
        weight_bits: bits of one weight in the file, 0 for an operation without weights.
        activation_bits: bits of one activation; 32: float32.
        granularity: of the weight scale.
        symmetric: whether weights must have zero point 0.
        least_weights: a layer with fewer weights takes the 8-bit kernel, which is faster there.
    """

    weight_bits: Literal[0, 2, 4, 8, 16]
    activation_bits: Literal[8, 16, 32]
    granularity: Literal["per_channel", "per_tensor"]
    symmetric: bool = True
    least_weights: int = Field(default=0, ge=0)


class GateTolerances(_Frozen):
    """What an exported package must reach.

    Attributes:
        output_steps: gate (a), largest |artefact - integer reference| in steps of the output quantizer. One step is what different roundings of an
            exact tie may cost; more means other arithmetic. 0 where artefact and reference round alike.
        top1_agreement: gate (b), fraction of samples on which integer reference and float model have the same argmax.
            Static int8 activations of a trained CIFAR-100 ResNet-20 reach 0.97 on 400 test images.
        sqnr_db: gate (b), signal to quantization noise of the logits. 20 dB is noise of a tenth of the logits' root mean square; a well calibrated
            8-bit CNN lies at 25 to 40, one activation scale that is wrong by a factor of 4 below 15.
        integer_share: least fraction of multiply-accumulates in integer kernels by the runtime's own profile; below it a package is written with a
            warning that says what stays in float and why.
        float_error: gate (a) of a runtime that computes in floats: what an output step stands for there, as a fraction of the reference's largest
            |output| on the recorded inputs, which lie in the task's own range. Two orders of adding n products differ by about sqrt(n) * 2^-24 of the
            sum of magnitudes (Higham and Mary, SIAM J. Sci. Comput. 2019; n * 2^-24 at worst), 4e-6 for the 4,608 products of a 3x3 convolution of
            512 channels; the limit is the one that extraction's proof uses.
    """

    output_steps: float = Field(default=1.0, ge=0)
    top1_agreement: float = Field(default=0.95, ge=0, le=1)
    sqnr_db: float = 20.0
    integer_share: float = Field(default=0.9, ge=0, le=1)
    float_error: float = Field(default=1e-5, gt=0, lt=1)


class Rates(_Frozen):
    """What the hardware does at best, for the cost of layers by the roofline model.

    Attributes:
        threads: that the other figures are for.
        int8_gmacs_per_s, float_gmacs_per_s: multiply-accumulates, in 10^9 per second.
        memory_gb_per_s: bytes read or written, in 10^9 per second.
    """

    threads: int = Field(ge=1)
    int8_gmacs_per_s: float = Field(gt=0)
    float_gmacs_per_s: float = Field(gt=0)
    memory_gb_per_s: float = Field(gt=0)


class Memory(_Frozen):
    """Where code and data lie on the machine that a program without an operating system is tried on.

    Attributes:
        flash_origin, ram_origin: first addresses.
        flash_kib, ram_kib: of that machine; what the device itself has stands in the target.
    """

    flash_origin: int = Field(ge=0)
    flash_kib: int = Field(ge=1)
    ram_origin: int = Field(ge=0)
    ram_kib: int = Field(ge=1)


class Toolchain(_Frozen):
    """What turns C sources into a program for the target, and what runs it here.

    Attributes:
        compiler: command of a gcc.
        flags: of the processor.
        emulator: command and arguments in front of the program; a machine that is emulated is never timed.
        memory: of the emulated machine; None: the program runs under Linux.
        pointer_bytes: of the processor.
        code_bytes: kernel -> bytes of machine code; `call_<kernel>`: of each call; `task`: of each task; `base`: of all else.
        stack_bytes: of the deepest call.
    """

    compiler: str = Field(default="gcc", min_length=1)
    flags: tuple[str, ...] = Field(default=(), strict=False)
    emulator: tuple[str, ...] = Field(default=(), strict=False)
    memory: Memory | None = None
    pointer_bytes: Literal[4, 8] = 8
    code_bytes: dict[str, int] = Field(default_factory=dict)
    stack_bytes: int = Field(default=0, ge=0)


class Source(_Frozen):
    """Where figures of the file come from.

    Attributes:
        figure: the keys the source speaks for.
        source: document or measurement.
        date: ISO date of the document's reading or of the measurement.
    """

    figure: str = Field(min_length=1)
    source: str = Field(min_length=1)
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")


class Target(_Frozen):
    """One hardware target.

    Attributes:
        schema_version: of the file format.
        name: the file's stem.
        kind: `cpu`, `gpu` or `edge`.
        runtime: name of the exporter and the runner, for example `onnxruntime`.
        minimum_version: of the runtime.
        install: shell line that installs what export and run need.
        opset, ir_version: largest ONNX opset and IR version the runtime reads; None for other formats.
        operations: operation -> operand widths of its integer kernel; what is not named runs in float, so a float runtime names none.
        channel_multiple: kept channels are rounded up to a multiple of this, unless the recipe says otherwise: kernels are slow beside it.
        max_code: largest |q| of a weight.
        sparsity_patterns: mask patterns that have kernels.
        rates: peak rates, None where nobody has measured them.
        flash_kib, ram_kib: limits, None where there is none to speak of.
        session_options_without_vnni: configuration entries that every session must set on a processor without int8 dot products.
        toolchain: compiler and emulator, for a runtime that is compiled; None for others.
        gates: tolerances.
        sources: origin and date of each figure.
    """

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    kind: Literal["cpu", "gpu", "edge"]
    runtime: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    minimum_version: str = Field(pattern=r"^\d+(\.\d+)*$")
    install: str = Field(min_length=1)
    opset: int | None = Field(default=None, ge=13)
    ir_version: int | None = Field(default=None, ge=7)
    operations: dict[str, OperationSupport]
    channel_multiple: int = Field(default=1, ge=1)
    max_code: int = Field(default=MAX_CODE, ge=1, le=MAX_CODE)
    sparsity_patterns: tuple[str, ...] = Field(default=(), strict=False)
    rates: Rates | None = None
    flash_kib: int | None = Field(default=None, ge=1)
    ram_kib: int | None = Field(default=None, ge=1)
    session_options_without_vnni: dict[str, str] = Field(default_factory=dict)
    toolchain: Toolchain | None = None
    gates: GateTolerances = Field(default_factory=GateTolerances)
    sources: tuple[Source, ...] = Field(min_length=1, strict=False)


def list_targets() -> tuple[str, ...]:
    """Names of all targets that `load_target` finds, sorted, without reading them."""
    return tuple(sorted({path.stem for folder in data_folders("hw_targets") for path in folder.glob("*.yaml")}))


def load_target(name_or_path: str | Path) -> Target:
    """Read one target.

    Args:
        name_or_path: a name such as `cpu_onnxruntime`, or the path of a `.yaml` file.

    Raises:
        TargetError: no such target (known names and the nearest are given), or a malformed file (all problems are given).
    """
    return _read(_find(name_or_path))


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise TargetError(f"Target file `{text}` does not exist. Give the path of a target file or one of the names {list(list_targets())}.")
        return path
    for folder in data_folders("hw_targets"):
        path = folder / f"{text}.yaml"
        if "/" not in text and "\\" not in text and path.is_file():
            return path
    known = list_targets()
    raise TargetError(f"Target {text!r} is unknown{did_you_mean(text, known)}; known: {', '.join(known) or 'none'}. Use one of these names.")


def _read(path: Path) -> Target:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TargetError(f"Target file `{path}` is not YAML: {error}. Correct the file.") from error
    if not isinstance(content, dict):
        raise TargetError(
            f"Target file `{path}` must hold a mapping of keys, got {type(content).__name__}. Start from what `tsn targets show` prints."
        )
    try:
        target = Target.model_validate(content)
    except ValidationError as error:
        raise TargetError(f"Target file `{path}` has {error.error_count()} problem(s):\n" + "\n".join(_problems(error))) from error
    if target.name != path.stem:
        raise TargetError(f"Target file `{path}` says `name: {target.name}`; the name must be the file's stem, `{path.stem}`.")
    return target


def _problems(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"]) or "file"
        if problem["type"] == "extra_forbidden":
            *section, key = problem["loc"]
            lines.append(f"- `{place}`: unknown key{did_you_mean(str(key), _known_keys(section))}. Correct or remove it.")
        elif problem["type"] == "missing":
            lines.append(f"- `{place}`: the key is missing. Add it.")
        else:
            lines.append(f"- `{place}`: {problem['msg']}, got {problem['input']!r}. Change it.")
    return lines


def _known_keys(place: Sequence[int | str]) -> tuple[str, ...]:
    """Keys that a target file may have at a place, given by the keys and positions that lead there."""
    if not place:
        return tuple(Target.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "gates": GateTolerances,
        "rates": Rates,
        "toolchain": Toolchain,
        "operations": OperationSupport,
        "sources": Source,
    }
    return tuple((Memory if place[-1] == "memory" else sections[str(place[0])]).model_fields)
