"""Several tasks of one store for one C target: one program that holds what they share once, passed through both gates task by task."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.delivery import package_options, parity_record
from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.export import gcc
from tsn_toolkit.export.artefact import write_atomically
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.share import OwnerView, TaskSlots, share_weights
from tsn_toolkit.export.package import GOLDEN_FILE, MANIFEST_FILE, SCHEMA_VERSION, add_measurements, canonical_json, golden_inputs, read_manifest
from tsn_toolkit.export.readme import readme_text
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.target import Target
from tsn_toolkit.verify.gates import run_gates

RUNTIME = "gcc"


@dataclass(frozen=True)
class Member:
    """One task of the program.

    Attributes:
        extracted: its small model.
        ranges: its activation ranges, from the store.
        data: its test split is measured on; nothing is chosen by it.
    """

    extracted: ExtractedModel
    ranges: Mapping[str, ActivationRange]
    data: TaskData


@dataclass(frozen=True)
class _Lowered:
    """A member with its integer reference and operations."""

    member: Member
    reference: IntegerModel
    program: IntegerProgram
    x: torch.Tensor


def deliver_jointly(members: Sequence[Member], owners: Mapping[str, OwnerView], target: Target, folder: Path) -> dict[str, Any]:
    """Writes one package of all members, or nothing.

    Args:
        members: in the order of their numbers in the program.
        owners: see `share_weights`.
        target: with the runtime `gcc`.
        folder: the package's place; must not exist.

    Returns:
        The manifest.

    Raises:
        ExportError: the folder exists, a task has no form in C, or the program exceeds the target's flash or RAM.
        TargetError: the target is of another runtime, or a tool is missing.
        GateError: a gate failed; there is no package.
    """
    if target.runtime != RUNTIME:
        raise TargetError(f"Target `{target.name}` runs one model a file; several tasks in one program need a target of the runtime `{RUNTIME}`.")
    if folder.exists():
        raise ExportError(f"Package folder `{folder}` exists already. Remove it or export to another folder.")
    lowered = [_lower(member) for member in members]
    return _as_a_whole(folder, lambda draft: _fill(draft, lowered, owners, target))


def _lower(member: Member) -> _Lowered:
    x = normalise(member.data.test.x, member.data.mean, member.data.std).to(torch.float32)
    reference, program = gcc.lower_task(member.extracted, member.ranges, x[:1])
    return _Lowered(member, reference, program, x)


def _fill(draft: Path, lowered: list[_Lowered], owners: Mapping[str, OwnerView], target: Target) -> None:
    tasks = {item.member.extracted.task: TaskSlots(item.program, item.member.extracted.slots) for item in lowered}
    programs = {task: member.program for task, member in tasks.items()}
    record, parts = gcc.write_measured(programs, share_weights(tasks, owners), target, draft)
    outputs = _write_golden(draft, lowered)
    manifest = _manifest(lowered, target, record, parts, outputs.shape[1])
    write_atomically(draft / "README.md", readme_text(manifest, load_runtime(RUNTIME, target=target.name), GOLDEN_FILE).encode())
    write_atomically(draft / MANIFEST_FILE, canonical_json(manifest))
    parity = {item.member.extracted.task: _gates(draft, item, target) for item in lowered}
    add_measurements(draft, {"parity.json": parity, "bench.json": bench_package(draft)})


def _write_golden(draft: Path, lowered: list[_Lowered]) -> NDArray[np.float32]:
    """Recorded inputs, and the outputs of all tasks for them side by side."""
    x = golden_inputs(tuple(lowered[0].x.shape[1:]))
    outputs = np.concatenate([gcc.reference_outputs(item.program, torch.from_numpy(x.astype(np.float32))) for item in lowered], axis=1)
    np.savez_compressed(draft / GOLDEN_FILE, x=x, y=outputs[None])
    return outputs


def _manifest(lowered: list[_Lowered], target: Target, record: dict[str, Any], parts: dict[str, int], width: int) -> dict[str, Any]:
    options = [package_options(item.member.data) for item in lowered]
    steps = [{"scaling": o.preprocessing.scaling, "mean": list(o.preprocessing.mean), "std": list(o.preprocessing.std)} for o in options]
    tasks = [
        {**task, "preprocessing": step, "labels": list(option.labels), "macs": item.member.extracted.macs, "first_output": first}
        for task, step, option, item, first in zip(record["tasks"], steps, options, lowered, _offsets(lowered), strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "task": ", ".join(item.member.extracted.task for item in lowered),
        "target": target.model_dump(mode="json"),
        "model_file": gcc.MODEL_FILE,
        "arithmetic": "integer",
        "not_run": gcc.cannot_run(),
        "quantization": "graph",
        "notes": [f"`{item.member.extracted.task}`: {note}" for item in lowered for note in item.reference.notes],
        "program": {**record, "tasks": tasks},
        "inputs": [{"name": gcc.INPUT_NAME, "dtype": "float32", "shape": ["batch", *lowered[0].x.shape[1:]]}],
        "outputs": [{"name": gcc.OUTPUT_NAME, "dtype": "float32", "shape": ["batch", width]}],
        "output_step": min(item.program.target.step for item in lowered),
        "preprocessing": steps[0],
        "labels": [label for option in options for label in option.labels],
        "bytes_by_part": parts,
        "macs": sum(item.member.extracted.macs for item in lowered),
        "dense_macs": sum(item.member.extracted.dense_macs for item in lowered),
        "versions": gcc.versions(target),
    }


def _offsets(lowered: list[_Lowered]) -> list[int]:
    """Column of each task's first output among those of all tasks."""
    sizes = [item.program.target.size for item in lowered]
    return [sum(sizes[:index]) for index in range(len(sizes))]


def _gates(draft: Path, item: _Lowered, target: Target) -> dict[str, Any]:
    extracted, data = item.member.extracted, item.member.data
    parity = run_gates(draft, extracted, item.reference, target, item.x, data.test.y, options={"task": extracted.task})
    if not parity.passed:
        raise GateError(f"task `{extracted.task}`, target `{target.name}`: " + " ".join(parity.failures))
    return parity_record(parity)


def _as_a_whole(folder: Path, fill: Callable[[Path], None]) -> dict[str, Any]:
    """The manifest of a package that `fill` writes into a temporary folder beside its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)
        fill(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return read_manifest(folder)
