"""What each post-training step is worth: python benchmarks/post_training.py [--bits N ...] [--recipe NAME] [--limit N] [--out FOLDER].

The first task of a recipe is learned once per bit width; every step then starts from the same learned network, is committed, and is measured on the
VALIDATION split (no test image is read). Columns: the steps' own verdict and loss difference; signal to noise of the logits of the stored network
against the one with own weights in float; of the 8-bit network against the stored one; accuracy of both; bytes of the task's part. Writes
results/post_training.json and results/post_training.md.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from harness.provenance import cpu_seconds, processor
from torch import nn
from torch.nn.utils import parametrize

from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.files import write_json, write_text
from tsn_toolkit.parts.rounding import float_copy
from tsn_toolkit.pipeline.founding import found_store, strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import task_context
from tsn_toolkit.pipeline.summary import versions
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.quantizers.activations import build_integer_model
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.store.store import Store
from tsn_toolkit.strategies import tsn
from tsn_toolkit.trainer.context import PostTraining
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.loop import predict
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import workshop_of_store

STEPS: Mapping[str, PostTraining] = {
    "none": PostTraining(),
    "equalize": PostTraining(equalize=True),
    "rounding: learned": PostTraining(rounding="learned"),
    "rounding: gptq": PostTraining(rounding="gptq"),
    "correct_biases": PostTraining(correct_biases=True),
    "gptq, then biases": PostTraining(rounding="gptq", correct_biases=True),
    "ranges: min_max": PostTraining(ranges="min_max"),
    "ranges: mse": PostTraining(ranges="mse"),
}
CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"


class _Learned(Exception):
    """Carries what a strategy hands to `finish_task` out of it, so that one training serves all steps."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]):
        super().__init__()
        self.arguments, self.options = arguments, options


@contextmanager
def _stopped_before_finish() -> Iterator[None]:
    def stop(*arguments: Any, **options: Any) -> None:
        raise _Learned(arguments, options)

    tsn.finish_task = stop
    try:
        yield
    finally:
        tsn.finish_task = finish_task


def measure(recipe_name: str, bits: int, limit: int | None, place: Path) -> list[dict[str, Any]]:
    """One row per step at one bit width."""
    overrides = ["tasks.count=1", f"plan.bit_width={bits}", "model.reference_accuracy=null"]
    recipe = load_recipe(recipe_name, overrides=[*overrides, *([f"data.train_limit={limit}"] if limit else [])], strategy_config=strategy_config)
    hooks = Hooks(say=lambda line: click.echo(line, err=True))
    folder = RunFolder(place / "run")
    store = found_store(recipe, folder, [], hooks)
    shop, data = workshop_of_store(store), load_task(recipe, 0)
    context = task_context(recipe, store, shop, plan_from_dict(store.recipe(TRUNK)["resolved_plan"]), data, 0, hooks)
    try:
        with _stopped_before_finish():
            tsn.learn(context, tsn.Config(**recipe.strategy.options))
    except _Learned as found:
        learned = found
    return [_row(name, steps, learned, store, shop.factory, bits, place) for name, steps in STEPS.items()]


def _row(name: str, steps: PostTraining, learned: _Learned, store: Store, factory: Any, bits: int, place: Path) -> dict[str, Any]:
    small, whole, masks = copy.deepcopy(learned.arguments[:3])
    _separate_(small.model)
    context, in_float = learned.arguments[3], float_copy(small.model.cpu())
    kept: list[dict[str, Any]] = []
    context = replace(context, post_training=steps, keep=lambda _, records: kept.extend(records))
    before = cpu_seconds()
    result = finish_task(small, whole, masks, context, **learned.options)
    seconds = cpu_seconds() - before
    copy_of_store = place / name.replace(" ", "_")
    shutil.copytree(store.path, copy_of_store)
    committed = Store.open(copy_of_store)
    committed.commit(result, {})
    extracted = extract(factory, context.graph, committed.weights(result.name))
    integer = build_integer_model(extracted.model, extracted.q, extracted.scale, torch.zeros(1, *context.graph.input_shape), ranges=result.ranges)
    split = context.data.validation
    logits = [predict(net, split, context.data, CPU).double() for net in (in_float, extracted.model, integer)]
    accuracy = [float((answer.argmax(1) == split.y).double().mean()) for answer in logits]
    return {
        "bits": bits, "steps": name, "verdicts": [_words(record) for record in kept], "records": kept,
        "sqnr_codes_db": _sqnr(logits[0], logits[1]), "sqnr_activations_db": _sqnr(logits[1], logits[2]), "sqnr_all_db": _sqnr(logits[0], logits[2]),
        "loss": result.validation["loss"], "accuracy_float": accuracy[0], "accuracy_store": accuracy[1], "accuracy_integer": accuracy[2],
        "bytes": committed.entry(result.name).size_bytes, "processor_s": seconds, "settings": asdict(steps),
    }  # fmt: skip


def _separate_(model: nn.Module) -> None:
    """Gives wrapped modules classes of their own, in place: a deep copy shares them, and unwrapping it would break what it was copied from."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))


def _words(record: Mapping[str, Any]) -> str:
    words = f"{record['step']} {record['verdict']}, {sum(layer['changed'] for layer in record['layers'])} {record['counted']}"
    return words + (f", loss {record['loss']['mean']:+.4f}" if record["loss"] else f" ({record['reason']})")


def _sqnr(wanted: torch.Tensor, got: torch.Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - got).square().sum().clamp_min(1e-30)))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| bits | steps | what they did | SQNR codes, dB | SQNR activations, dB | SQNR both, dB | loss | accuracy store | int8 | kB | seconds |"]
    lines.append("|-" * 11 + "|")
    for row in rows:
        noise = " | ".join(f"{row[key]:.1f}" for key in ("sqnr_codes_db", "sqnr_activations_db", "sqnr_all_db"))
        accuracy = f"{row['loss']:.4f} | {100 * row['accuracy_store']:.1f} | {100 * row['accuracy_integer']:.1f}"
        did = "; ".join(row["verdicts"]) or "-"
        lines.append(f"| {row['bits']} | {row['steps']} | {did} | {noise} | {accuracy} | {row['bytes'] / 1000:.2f} | {row['processor_s']:.0f} |")
    return "\n".join(lines)


@click.command()
@click.option("--recipe", default="cifar100_resnet20", show_default=True)
@click.option("--bits", multiple=True, type=click.IntRange(1, 8), default=(8, 3), show_default=True, help="Bits per own code.")
@click.option("--limit", type=int, default=None, help="Training examples in all, instead of every one.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder; default: results/ beside this file.")
def main(recipe: str, bits: tuple[int, ...], limit: int | None, out: Path) -> None:
    """Learns, applies each step, measures, writes the table after every bit width."""
    rows: list[dict[str, Any]] = []
    for width in bits:
        with tempfile.TemporaryDirectory() as place:
            rows += measure(recipe, width, limit, Path(place))
        record = {"processor": processor(), "versions": versions(), "recipe": recipe, "train_limit": limit, "rows": rows}
        write_json(out / "post_training.json", record)
        write_text(out / "post_training.md", page(record))
    click.echo(page(record))


def page(record: Mapping[str, Any]) -> str:
    """The whole page."""
    widths = " ".join(f"--bits {bits}" for bits in dict.fromkeys(row["bits"] for row in record["rows"]))
    limit = f" --limit {record['train_limit']}" if record["train_limit"] else ""
    lines = [
        "# Steps between training and commit",
        "",
        f"`python benchmarks/post_training.py --recipe {record['recipe']} {widths}{limit}`; {record['processor']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()))
        + ".",
        "",
        *_HOW,
        "",
        _table(record["rows"]),
    ]
    return "\n".join(lines) + "\n"


_HOW = (
    "The first task of the recipe is learned once per bit width; every step starts from the same learned network and is measured on validation data.",
    "Noise of the codes is that of the stored network against its own weights in float, noise of the activations that of the 8-bit network against",
    "the stored one. A step that raises the validation loss is undone, and says so. Seconds are the processor's, for the step and the calibration.",
)


if __name__ == "__main__":
    main()
