"""Several tasks of one store for one C target: one program that holds what they share once, passed through both gates task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.bench.latency import bench_package
from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData, TextForm
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.delivery import package_options, parity_record, share_record
from tsn_toolkit.errors import TargetError
from tsn_toolkit.export import gcc
from tsn_toolkit.export.artefact import Artefact, ExportRequest
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.share import OwnerView, TaskSlots, share_weights
from tsn_toolkit.export.golden import InputRange, RecordedInputs, input_range, record_inputs
from tsn_toolkit.export.manifest import Preprocessing, add_measurements, describe, write_manifest
from tsn_toolkit.export.package import GOLDEN_FILE, PackageOptions, refuse_existing, write_as_a_whole, write_description
from tsn_toolkit.export.text_file import TEXT_FILE, write_text_file
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.target import Target
from tsn_toolkit.verify.gates import require_passed, run_gates
from tsn_toolkit.verify.integer_share import integer_share

RUNTIME = "gcc"


@dataclass(frozen=True)
class Member:
    """One task of the program.

    Attributes:
        extracted: its small model.
        ranges: its activation ranges, from the store.
        data: its test split is measured on; nothing is chosen by it.
        recipe: the resolved recipe of the task, as the store keeps it.
    """

    extracted: ExtractedModel
    ranges: Mapping[str, ActivationRange]
    data: TaskData
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lowered:
    """A member with its integer reference and operations."""

    member: Member
    reference: IntegerModel
    program: IntegerProgram
    x: torch.Tensor


@dataclass(frozen=True)
class _Recorded:
    """Outputs of all tasks for the recorded inputs, notes on these, and what the manifest says of each range of inputs."""

    outputs: NDArray[np.float32]
    notes: tuple[str, ...]
    inputs: list[dict[str, Any]]


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
    lowered = [_lower(member, target) for member in members]
    return write_as_a_whole(folder, lambda draft: _fill(draft, lowered, owners, target))


def _lower(member: Member, target: Target) -> _Lowered:
    x = normalise(member.data.test.x, member.data.mean, member.data.std).to(torch.float32)
    reference, program = gcc.lower_task(ExportRequest(member.extracted, member.ranges, target, x[:1]))
    return _Lowered(member, reference, program, x)


def _fill(draft: Path, lowered: list[_Lowered], owners: Mapping[str, OwnerView], target: Target) -> None:
    tasks = {item.member.extracted.task: TaskSlots(item.program, item.member.extracted.slots) for item in lowered}
    programs = {task: member.program for task, member in tasks.items()}
    record, parts = gcc.write_measured(programs, share_weights(tasks, owners), target, draft)
    for form, name in _text_files(lowered).items():
        write_text_file(draft, form, name)
    write_description(draft, _manifest(lowered, target, record, parts, _write_golden(draft, lowered)))
    share = share_record(integer_share(draft))
    parity = {item.member.extracted.task: {**_gates(draft, item, target), **share} for item in lowered}
    manifest = add_measurements(draft, {"parity.json": parity, "bench.json": bench_package(draft)})
    write_manifest(draft, {**manifest, "accuracy": {task: found["accuracy"] for task, found in parity.items()}})


def _write_golden(draft: Path, lowered: list[_Lowered]) -> _Recorded:
    """Recorded inputs of every range that a task has, and the outputs of all tasks for all of them side by side."""
    spans: dict[InputRange, list[_Lowered]] = {}
    for item in lowered:
        options = package_options(item.member.data)
        spans.setdefault(input_range(options.preprocessing, item.member.extracted, item.member.ranges), []).append(item)
    drawn = {span: _drawn(span, items) for span, items in spans.items()}
    x = np.concatenate([inputs.x for inputs in drawn.values()])
    outputs = np.concatenate([gcc.reference_outputs(item.program, torch.from_numpy(x.astype(np.float32))) for item in lowered], axis=1)
    np.savez_compressed(draft / GOLDEN_FILE, x=x, y=outputs[None])
    notes = tuple(inputs.note for inputs in drawn.values() if inputs.note)
    return _Recorded(outputs, notes, [inputs.record(span) for span, inputs in drawn.items()])


def _drawn(span: InputRange, items: list[_Lowered]) -> RecordedInputs:
    """Inputs in the range of some tasks, which each of them answers apart."""

    def answer(x: torch.Tensor) -> list[NDArray[np.float32]]:
        return [gcc.reference_outputs(item.program, x) for item in items]

    def outputs_of(found: list[NDArray[np.float32]]) -> list[tuple[NDArray[np.float32], float | None]]:
        return [(outputs, item.program.target.step) for outputs, item in zip(found, items, strict=True)]

    defaults = PackageOptions()
    shape = tuple(items[0].x.shape[1:])
    return record_inputs(shape, span, answer, outputs_of, count=defaults.golden_samples, seed=defaults.golden_seed)[0]


def _text_files(lowered: list[_Lowered]) -> dict[TextForm, str]:
    """The ways in which texts become columns, and the file of the package that holds each."""
    forms = dict.fromkeys(form for item in lowered if (form := item.member.data.test.reading.text) is not None)
    return {form: TEXT_FILE if index == 0 else f"text-{index}.json" for index, form in enumerate(forms)}


def _options(data: TaskData, files: Mapping[TextForm, str]) -> PackageOptions:
    """Preprocessing and labels of a task, and the file with its texts' form."""
    options = package_options(data)
    if options.text is None:
        return options
    return replace(options, preprocessing=replace(options.preprocessing, text_file=files[options.text]))


def _manifest(lowered: list[_Lowered], target: Target, record: dict[str, Any], parts: dict[str, int], recorded: _Recorded) -> dict[str, Any]:
    files = _text_files(lowered)
    members, options = [item.member.extracted for item in lowered], [_options(item.member.data, files) for item in lowered]
    tasks = [
        {
            **task,
            "preprocessing": option.preprocessing.record(),
            "labels": list(option.labels),
            "macs": item.member.extracted.macs,
            "first_output": first,
            "recipe": dict(item.member.recipe),
        }
        for task, option, item, first in zip(record["tasks"], options, lowered, _offsets(lowered), strict=True)
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
        notes=(*(f"`{item.member.extracted.task}`: {note}" for item in lowered for note in item.reference.notes), *recorded.notes),
        channels={"program": {**record, "tasks": tasks}},
    )
    return {
        **describe(
            artefact,
            target,
            task=", ".join(extracted.task for extracted in members),
            preprocessing=Preprocessing(),
            labels=[label for option in options for label in option.labels],
            shape=tuple(lowered[0].x.shape[1:]),
            outputs=recorded.outputs,
            arithmetic="integer",
        ),
        "preprocessing": None,  # each task has its own
        "recorded_inputs": recorded.inputs,
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
    require_passed(parity, extracted.task, target.name)
    return parity_record(parity)
