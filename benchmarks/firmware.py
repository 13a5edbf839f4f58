"""Bytes of one program with several tasks of a store beside as many programs with one task each, from the linked ELF files.

    tsn run digits --out runs/digits
    python benchmarks/firmware.py digits=runs/digits/store [name=STORE ...] [--target edge_cortex_m4] [--counts 1,2,5,10]

For every count the first so many tasks of each store are put into one program and linked for the target; the same tasks are linked one by one.
Flash and RAM are those of the ELF files (RAM with the stack that the emulated program used), beside what was predicted. Every task of the joint
program is then run on this computer and must give the bytes of its reference. Writes `results/firmware.json` and `results/firmware.md`. Stores of
the same recipe and seed give the same numbers; no test data is read and nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsn_toolkit.export import gcc
from tsn_toolkit.export.artefact import ExportRequest
from tsn_toolkit.export.c.compile import compiler_version, measure, require_tools
from tsn_toolkit.export.c.footprint import predict
from tsn_toolkit.export.c.operations import IntegerProgram
from tsn_toolkit.export.c.program import CProgram, generate, weights_of, write_program
from tsn_toolkit.export.c.reference import quantize_input, run_reference, stored_bytes
from tsn_toolkit.export.c.share import TaskSlots, share_weights
from tsn_toolkit.export.golden import InputRange, draw_inputs
from tsn_toolkit.extract import extract
from tsn_toolkit.pipeline.joint_export import owner_views
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import Target, load_target
from tsn_toolkit.workshop import workshop_of_store

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLES = 4


def tasks_of(store: Store, target: Target, count: int) -> dict[str, TaskSlots]:
    """The first tasks of a store as integer operations."""
    shop, example = workshop_of_store(store), torch.zeros(1, *store.architecture.input_shape)
    tasks = {}
    for entry in store.entries[:count]:
        weights = store.weights(entry.name)
        extracted = extract(shop.factory, shop.graph, weights)
        _, lowered = gcc.lower_task(ExportRequest(extracted, weights.ranges, target, example))
        tasks[entry.name] = TaskSlots(lowered, extracted.slots)
        print(f"  `{entry.name}` extracted", flush=True)
    return tasks


def check_bytes(program: CProgram, tasks: Mapping[str, IntegerProgram]) -> None:
    """Run every task on this computer against its reference.

    Raises:
        SystemExit: a byte differs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_program(program, folder)
        subprocess.run(["make", "-s", "host"], cwd=folder, check=True)
        for index, (task, lowered) in enumerate(tasks.items()):
            widest = InputRange((-128 * lowered.source.step,), (127 * lowered.source.step,))
            codes = quantize_input(lowered, draw_inputs(lowered.source.shape, widest, SAMPLES, [0]).astype(np.float32))
            expected = stored_bytes(run_reference(lowered, codes), lowered.target)
            request = bytes([index]) + stored_bytes(codes, lowered.source).tobytes()
            answer = subprocess.run(["./host"], cwd=folder, input=request, capture_output=True, check=True).stdout
            if answer != expected.tobytes():
                raise SystemExit(f"task `{task}` of the joint program does not give its reference's bytes")


def measure_store(path: Path, target: Target, counts: list[int]) -> dict[str, Any]:
    """What programs of a store's tasks occupy."""
    toolchain, store = require_tools(target), Store.open(path)
    members = tasks_of(store, target, max(counts))
    alone = {}
    for task, member in members.items():
        single = {task: member.program}
        alone[task] = measure(generate(single, weights={task: weights_of(member.program)}, toolchain=toolchain), single, toolchain)
        print(f"  `{task}` alone: {alone[task].flash_bytes:,} bytes", flush=True)
    rows = []
    for count in [count for count in counts if count <= len(members)]:
        some = dict(list(members.items())[:count])
        tasks = {task: member.program for task, member in some.items()}
        program = generate(tasks, weights=share_weights(some, owner_views(store, list(some))), toolchain=toolchain)
        check_bytes(program, tasks)
        found, predicted = measure(program, tasks, toolchain), predict(program, tasks, toolchain)
        separate = sum(alone[task].flash_bytes for task in tasks)
        rows.append({"tasks": count, "joint": asdict(found), "predicted": asdict(predicted), "separate_flash_bytes": separate})
        print(f"  {count} tasks together: {found.flash_bytes:,} bytes, apart {separate:,}", flush=True)
    return {"tasks_of_the_store": len(store.entries), "rows": rows}


def table(results: Mapping[str, Any]) -> str:
    """Markdown of all measured stores."""
    lines = [
        "# Several tasks in one program",
        "",
        f"Target `{results['target']}`, {results['compiler']}. Bytes of linked ELF files; every task gives the bytes of its own reference.",
        "",
        "| store | tasks | flash, one program | flash, one program each | ratio | predicted flash | RAM | predicted RAM |",
        "|-|-|-|-|-|-|-|-|",
    ]
    for name, found in results["stores"].items():
        for row in found["rows"]:
            joint, predicted, separate = row["joint"], row["predicted"], row["separate_flash_bytes"]
            flash = f"{joint['flash_bytes']:,} | {separate:,} | {joint['flash_bytes'] / separate:.2f} | {predicted['flash_bytes']:,}"
            lines.append(f"| {name} | {row['tasks']} | {flash} | {joint['ram_bytes']:,} | {predicted['ram_bytes']:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every store that is named, beside those measured before for the same target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="NAME=STORE")
    parser.add_argument("--target", default="edge_cortex_m4")
    parser.add_argument("--counts", default="1,2,5,10")
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    file = RESULTS / "firmware.json"
    compiler = f"{require_tools(target).compiler} {compiler_version(require_tools(target).compiler, target)} -O2"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    same = before.get("target") == target.name and before.get("compiler") == compiler
    results = {"target": target.name, "compiler": compiler, "stores": before["stores"] if same else {}}
    for item in arguments.stores:
        name, _, path = item.partition("=")
        print(name, flush=True)
        results["stores"][name] = measure_store(Path(path), target, [int(count) for count in arguments.counts.split(",")])
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "firmware.md").write_text(table(results), encoding="utf-8")
    print(table(results), end="")


if __name__ == "__main__":
    main()
