"""Several tasks of one store for one C target: one program that holds what they share once, passed through both gates task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.delivery import package_options, parity_record
from tsn_toolkit.errors import GateError, TargetError
from tsn_toolkit.export import gcc
from tsn_toolkit.export.artefact import Artefact
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.share import OwnerView, TaskSlots, share_weights
from tsn_toolkit.export.manifest import add_measurements, describe
from tsn_toolkit.export.package import GOLDEN_FILE, golden_inputs, refuse_existing, write_as_a_whole, write_description
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
    refuse_existing(folder)
    lowered = [_lower(member) for member in members]
    return write_as_a_whole(folder, lambda draft: _fill(draft, lowered, owners, target))


def _lower(member: Member) -> _Lowered:
    x = normalise(member.data.test.x, member.data.mean, member.data.std).to(torch.float32)
    reference, program = gcc.lower_task(member.extracted, member.ranges, x[:1])
    return _Lowered(member, reference, program, x)


def _fill(draft: Path, lowered: list[_Lowered], owners: Mapping[str, OwnerView], target: Target) -> None:
    tasks = {item.member.extracted.task: TaskSlots(item.program, item.member.extracted.slots) for item in lowered}
    programs = {task: member.program for task, member in tasks.items()}
    record, parts = gcc.write_measured(programs, share_weights(tasks, owners), target, draft)
    outputs = _write_golden(draft, lowered)
    write_description(draft, _manifest(lowered, target, record, parts, outputs))
    parity = {item.member.extracted.task: _gates(draft, item, target) for item in lowered}
    add_measurements(draft, {"parity.json": parity, "bench.json": bench_package(draft)})


def _write_golden(draft: Path, lowered: list[_Lowered]) -> NDArray[np.float32]:
    """Recorded inputs, and the outputs of all tasks for them side by side."""
    x = golden_inputs(tuple(lowered[0].x.shape[1:]))
    outputs = np.concatenate([gcc.reference_outputs(item.program, torch.from_numpy(x.astype(np.float32))) for item in lowered], axis=1)
    np.savez_compressed(draft / GOLDEN_FILE, x=x, y=outputs[None])
    return outputs


def _manifest(
    lowered: list[_Lowered], target: Target, record: dict[str, Any], parts: dict[str, int], outputs: NDArray[np.float32]
) -> dict[str, Any]:
    members, options = [item.member.extracted for item in lowered], [package_options(item.member.data) for item in lowered]
    tasks = [
        {**task, "preprocessing": option.preprocessing.record(), "labels": list(option.labels), "macs": extracted.macs, "first_output": first}
        for task, option, extracted, first in zip(record["tasks"], options, members, _offsets(lowered), strict=True)
    ]
    artefact = Artefact(
        gcc.MODEL_FILE,
        nn.ModuleList(item.reference for item in lowered),
        gcc.INPUT_NAME,
        gcc.OUTPUT_NAME,
        parts,
        gcc.versions(target),
        output_step=min(item.program.target.step for item in lowered),
        quantization="graph",
        notes=tuple(f"`{item.member.extracted.task}`: {note}" for item in lowered for note in item.reference.notes),
        channels={"program": {**record, "tasks": tasks}},
    )
    return {
        **describe(
            artefact,
            target,
            task=", ".join(extracted.task for extracted in members),
            preprocessing=options[0].preprocessing,
            labels=[label for option in options for label in option.labels],
            shape=tuple(lowered[0].x.shape[1:]),
            outputs=outputs,
            arithmetic="integer",
        ),
        "macs": sum(extracted.macs for extracted in members),
        "dense_macs": sum(extracted.dense_macs for extracted in members),
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
