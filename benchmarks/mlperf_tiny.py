"""Bytes of our ResNet-8 beside the int8 ResNet-8 of MLPerf Tiny, the image classifier that an edge user deploys today.

    pip install -e '.[onnxruntime]'           # and gcc-arm-none-eabi, see docs/edge-c.md
    export TSN_DATA=FOLDER                    # cifar-100-binary/, checkpoints/, mlperf-tiny/
    python benchmarks/mlperf_tiny.py [--work FOLDER] [--out FOLDER]

Ours is one task of ten classes out of a CIFAR-100 ResNet-8 that was trained elsewhere, learned as in `recipes/cifar100_resnet20.yaml`. Theirs is read
as it lies on disk. Writes results/mlperf_tiny.json and results/mlperf_tiny.md.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch
from harness.provenance import processor
from target_table.learned import BOUND, Learned, Model, learn
from target_table.row import Row, measure

from tsn_toolkit.files import write_json, write_text
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.target import load_target

RESULTS = Path(__file__).parent / "results"
OURS = Model(
    "cifar100_resnet8",
    "CIFAR-100, ResNet-8 from a trained checkpoint",
    "cifar100_resnet20",
    (
        *BOUND,
        "model.factory=tsn_toolkit.models.resnet_cifar:resnet(depth=8)",
        "model.checkpoint=${TSN_DATA}/checkpoints/distiller_resnet8_cifar100.pth",
        "model.reference_accuracy=null",
        "plan.unit_overrides={conv1: 0.45, layer1.0.conv1: 0.69}",
        "plan.layer_overrides={'*': {encoding: shared}, layer1.0.*: {encoding: codes}}",
        "training.epochs=1",
        "data.train_limit=20000",
    ),
)
TARGETS = ("cpu_onnxruntime_no_vnni", "edge_cortex_m4")
THEIRS = {"int8 .tflite": "pretrainedResnet_quant.tflite", "float32 .tflite": "pretrainedResnet.tflite"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/targets"), show_default=True, help="Folder of the learned task.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder; default: results/ beside this file.")
def main(work: Path, out: Path) -> None:
    """Learn, export, compare, write."""
    torch.set_num_threads(1)
    folder = Path(os.environ.get("TSN_DATA", "")) / "mlperf-tiny"
    missing = [name for name in THEIRS.values() if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder} does not hold {', '.join(missing)}. Set TSN_DATA to the folder that holds mlperf-tiny/.")
    theirs = {words: (folder / name).stat().st_size for words, name in THEIRS.items()}
    learned = learn(OURS, work, lambda line: print(line, file=sys.stderr, flush=True))
    rows = {name: measure(learned, load_target(name), seconds=0.2) for name in TARGETS}
    refused = [f"{name}: {row['refused']}" for name, row in rows.items() if "refused" in row]
    if refused:
        raise SystemExit("\n".join(refused))
    results = {"processor": processor(), "versions": versions(), "theirs": theirs, "ours": _sizes(learned, rows), "rows": rows}
    write_json(out / "mlperf_tiny.json", results)
    write_text(out / "mlperf_tiny.md", page(results))


def _sizes(learned: Learned, rows: dict[str, Row]) -> dict[str, Any]:
    """Bytes of every form of our task, and what is said beside them."""
    return {
        "overrides": list(learned.model.overrides),
        "task": learned.data.name,
        "weights": learned.weights,
        "macs": learned.extracted.macs,
        "dense_macs": learned.extracted.dense_macs,
        "dense_accuracy": learned.dense_accuracy,
        "onnx_accuracy": rows[TARGETS[0]]["parity"]["accuracy"],
        "failures": [failure for row in rows.values() for failure in row["parity"]["failures"]],
        "bytes": {
            "C program for a Cortex-M4, linked: constants and code": rows[TARGETS[1]]["bytes"],
            "int8 .onnx": rows[TARGETS[0]]["bytes"],
            "trunk and task in the store": learned.trunk_bytes + learned.task_bytes,
            "the task's own part of the store": learned.task_bytes,
            "dense fp32, .safetensors": learned.dense_bytes,
        },
    }


def page(results: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    ours, theirs = results["ours"], results["theirs"]
    reference = theirs["int8 .tflite"]
    lines = [
        "# Our ResNet-8 and that of MLPerf Tiny",
        "",
        f"`python benchmarks/mlperf_tiny.py`; {results['processor']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
        + ".",
        "",
        "| whose | file | bytes | to the int8 .tflite |",
        "|-|-|-|-|",
        *(f"| MLPerf Tiny | {words} | {size:,} | {size / reference:.2f} |" for words, size in theirs.items()),
        *(f"| ours, task `{ours['task']}` | {words} | {size:,} | {size / reference:.2f} |" for words, size in ours["bytes"].items()),
        "",
        "Ours: `tsn run cifar100_resnet20 " + " ".join(f"--set {shlex.quote(override)}" for override in ours["overrides"]) + "`;",
        f"{ours['weights']:,} weights before units go, {ours['macs']:,} of {ours['dense_macs']:,} MACs kept; test accuracy "
        f"{100 * ours['dense_accuracy']:.1f} % dense, {100 * ours['onnx_accuracy']:.1f} % as int8 .onnx. "
        + ("Both gates passed." if not ours["failures"] else "A gate FAILED: " + " ".join(ours["failures"])),
        "",
        *_FAIR,
    ]
    return "\n".join(lines) + "\n"


_FAIR = (
    "The two are not the same network. Theirs has a stem of 16 channels and classifies CIFAR-10; ours has a stem of 64 channels, some of which are",
    "removed, and classifies ten classes of CIFAR-100 out of a network that was trained on all hundred. The accuracy of theirs is not measured here:",
    "that takes CIFAR-10. A .tflite file needs an interpreter in flash beside it, which is not counted; a C program is counted with its kernels,",
    "without the code that starts a board. A store's trunk is shared by all tasks, and each further task adds a part like the one above.",
)


if __name__ == "__main__":
    main()
