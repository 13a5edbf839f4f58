"""How fast per-task models are beside dense fp32 and beside the vendor's own int8 of the dense network.

    pip install -e '.[onnxruntime,openvino,nncf]'
    tsn run cifar100_resnet20 --out RUN --set ...          # any store of the recipe; its command stands in the result
    python benchmarks/latency.py --store RUN/store [--seconds 2] [--rounds 6] [--target NAME ...] [--out FOLDER]

Measured are every task of the store (accuracy on the whole test part, nothing is chosen by it) and a ResNet-18 for 224 pixels with half of the units
of every group and random weights (speed alone). One thread, batches 1 and 32. Writes latency.md and latency.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import torch
from harness.provenance import processor
from speed.measure import measure
from speed.page import page
from speed.resnet18 import ResNet18
from speed.subject import Subject, random_network, task_of_store

from tsn_toolkit.errors import TsnError
from tsn_toolkit.export.processor import processor_has_vnni
from tsn_toolkit.files import write_json, write_text
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import load_target

RESULTS = Path(__file__).parent / "results"
TARGETS = ("cpu_onnxruntime_no_vnni", "cpu_openvino")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", "stores", type=click.Path(path_type=Path, exists=True), multiple=True, help="A store of cifar100_resnet20.")
@click.option("--target", "targets", multiple=True, default=TARGETS, show_default=True, help="Targets to measure.")
@click.option("--seconds", default=2.0, show_default=True, help="Measuring time per model and batch size.")
@click.option("--rounds", default=6, show_default=True, help="Processes per model and batch size; the models take turns.")
@click.option("--resnet18/--no-resnet18", default=True, show_default=True, help="Also the ResNet-18 with random weights.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder; default: results/ beside this file.")
def main(stores: tuple[Path, ...], targets: tuple[str, ...], seconds: float, rounds: int, resnet18: bool, out: Path) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for subject in subjects(stores, resnet18):
        for target in targets:
            try:
                rows.append(measure(subject, target, seconds=seconds, rounds=rounds))
            except TsnError as error:
                print(f"{subject.name}, {target}: {error}", file=sys.stderr)
                continue
            print(json.dumps({key: rows[-1][key] for key in ("subject", "target", "accuracy", "times")}), file=sys.stderr)
    command = "python benchmarks/latency.py " + " ".join(argument if "/" not in argument else Path(argument).parent.name for argument in sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[1] / (os.cpu_count() or 1)  # of the last 5 minutes, about as long as this takes
    about = {"command": command, "processor": processor(), "versions": versions(), "load": load, "peak_ratio": peak_ratio()}
    write_json(out / "latency.json", {**about, "rows": rows})
    text = page(rows, **about)
    write_text(out / "latency.md", text)
    print(text)


def peak_ratio() -> float | None:
    """int8 over float rate of processors without VNNI, as their target file has it; None on others, whose rates nobody measured."""
    rates = load_target("cpu_onnxruntime_no_vnni").rates
    return None if rates is None or processor_has_vnni() else rates.int8_gmacs_per_s / rates.float_gmacs_per_s


def subjects(stores: tuple[Path, ...], resnet18: bool) -> list[Subject]:
    """All that is measured."""
    found = [task_of_store(path, entry.name) for path in stores for entry in Store.open(path).entries]
    if resnet18:
        found.append(random_network("ResNet-18, 224 pixels, half of the units", ResNet18(), (3, 224, 224), keep=0.5))
    return found


if __name__ == "__main__":
    main()
