"""Every model for every target: bytes, accuracy, both gates, latency and the share of integer kernels, or why not.

    pip install -e '.[onnxruntime,openvino]' scikit-learn     # and the compilers of docs/edge-c.md
    export TSN_DATA=FOLDER                    # cifar-100-binary/, checkpoints/, har/, text/
    python benchmarks/targets.py [--only NAME ...] [--target NAME ...] [--work FOLDER] [--seconds 0.5]

A model is the first task of a recipe, learned once and kept in the work folder; what is there already is taken from there. Rows of models and targets
that are not measured this time stay as they are. Nothing is chosen by test data. Writes results/targets.json and results/targets.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import torch
from harness.provenance import processor
from target_table.learned import BOUND, Learned, Model, learn
from target_table.page import page
from target_table.row import measure

from tsn_toolkit.files import read_json, write_text
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.target import list_targets, load_target

RESULTS = Path(__file__).parent / "results"
MODELS = (
    Model("digits", "Digits, small conv net", "digits"),
    Model("cifar100_resnet20", "CIFAR-100, ResNet-20 from a trained checkpoint", "cifar100_resnet20"),
    Model("cifar100_depthwise", "CIFAR-100, depthwise separable net", "cifar100_depthwise", (*BOUND, "training.epochs=6")),
    Model("har", "UCI HAR, 1-d conv net", "har"),
    Model("cifar100_vit", "CIFAR-100, small vision transformer", "cifar100_vit", (*BOUND, "training.epochs=5")),
    Model("trec", "TREC, sentence classifier", "trec"),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice([model.name for model in MODELS]), help="Models; default: all.")
@click.option("--target", "targets", multiple=True, help="Targets; default: all.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/targets"), show_default=True, help="Folder of the learned tasks.")
@click.option("--seconds", default=0.5, show_default=True, help="Measuring time per model and batch size.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder; default: results/ beside this file.")
def main(only: tuple[str, ...], targets: tuple[str, ...], work: Path, seconds: float, out: Path) -> None:
    """Learn, export, measure, write; after every row, so that a run that is stopped loses one."""
    torch.set_num_threads(1)
    file = out / "targets.json"
    results = read_json(file) if file.is_file() else {"models": {}}
    results |= {"command": "python benchmarks/targets.py", "processor": processor(), "versions": versions()}
    for model in MODELS:
        if only and model.name not in only:
            continue
        learned = learn(model, work, _say)
        before = {row["target"]: row for row in results["models"].get(model.name, {}).get("rows", [])}
        for name in targets or list_targets():
            before[name] = measure(learned, load_target(name), seconds=seconds)
            _say(f"{model.name}, {name}: {before[name].get('refused') or before[name]['parity']}")
            rows = [before[target] for target in list_targets() if target in before]
            results["models"][model.name] = {**_about(learned), "rows": rows}
            results["models"] = {known.name: results["models"][known.name] for known in MODELS if known.name in results["models"]}
            write_text(file, json.dumps(results, indent=1) + "\n")
            write_text(out / "targets.md", page(results))


def _about(learned: Learned) -> dict[str, Any]:
    """What the page says of a model."""
    model = learned.model
    return {
        "words": model.words,
        "recipe": model.recipe,
        "overrides": list(model.overrides),
        "task": learned.data.name,
        "weights": learned.weights,
        "macs": learned.extracted.macs,
        "dense_macs": learned.extracted.dense_macs,
        "dense_accuracy": learned.dense_accuracy,
        "store_accuracy": learned.store_accuracy,
        "test_examples": len(learned.data.test),
        "dense_bytes": learned.dense_bytes,
        "task_bytes": learned.task_bytes,
        "trunk_bytes": learned.trunk_bytes,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
