"""Commands that read a model, and commands on a store or a packed file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tsn_toolkit.command_line import terminal
from tsn_toolkit.report.indented_text import indented_text
from tsn_toolkit.report.inspection_text import inspection_text


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "inputs",
    required=True,
    metavar="SHAPE[,SHAPE...]",
    help="Shapes with their batch: 1x3x32x32, 1x128:int64,1x128:int64; or a factory of a tensor, tuple or dict: file.py:make_inputs.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Trained weights to load first.")
@click.option("--head", help="Module path of the classifier; default: the layer that makes the output.")
@click.option("--target", "target_name", help="Name or file of a target: shows what its integer kernels take and what each module costs there.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for graph.json and graph.svg.")
@terminal.JSON_OPTION
def analyze(model: str, inputs: str, checkpoint: Path | None, head: str | None, target_name: str | None, out: Path | None, as_json: bool) -> None:
    """Read MODEL (`package.module:factory` or `file.py:factory`): layers, costs, coupled units, and what is frozen and why."""
    from tsn_toolkit.pipeline.analysis import analyze_model, example_inputs

    try:
        example = example_inputs(inputs)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--input") from error
    table, record, picture = analyze_model(model, example, checkpoint, head, target_name)
    if out is not None:
        from tsn_toolkit.files import write_json, write_text

        write_json(out / "graph.json", record)
        write_text(out / "graph.svg", picture)
    click.echo(json.dumps(record) if as_json else table)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@terminal.JSON_OPTION
def inspect(store: Path, as_json: bool) -> None:
    """Show what STORE, a folder or a packed file, holds, byte by byte."""
    from tsn_toolkit.store.inspect import inspect_store
    from tsn_toolkit.store.joint_image import JointImage
    from tsn_toolkit.store.packing import is_packed_file
    from tsn_toolkit.store.store import Store

    if is_packed_file(store):
        described = JointImage.open(store).describe()
        click.echo(json.dumps(described) if as_json else indented_text(described))
        return
    result = inspect_store(Store.open(store))
    click.echo(json.dumps(result) if as_json else inspection_text(result))


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task, its chain and who answers for it; may be repeated.")
@terminal.JSON_OPTION
def pack(store: Path, file: Path, tasks: tuple[str, ...], as_json: bool) -> None:
    """Write STORE as one FILE, in which the bits of all tasks lie together in one array of words per layer."""
    from tsn_toolkit.pipeline.commands import pack_to_file

    result = pack_to_file(store, file, tasks)
    text = f"{file}: {result['total_bytes']:,} bytes, {result['word_bytes']:,} of them words; tasks {', '.join(result['tasks']) or '(none)'}"
    click.echo(json.dumps(result) if as_json else text)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@terminal.JSON_OPTION
def unpack(file: Path, folder: Path, as_json: bool) -> None:
    """Write the store in the packed FILE into DIR, byte for byte as it was packed."""
    from tsn_toolkit.pipeline.commands import unpack_to_folder

    result = unpack_to_folder(file, folder)
    click.echo(json.dumps(result) if as_json else f"{folder}: {len(result['tasks'])} tasks, {result['total_bytes']:,} bytes")


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("task")
@terminal.JSON_OPTION
def retire(store: Path, task: str, as_json: bool) -> None:
    """Remove TASK from STORE, if no other task inherits from it; every other part stays as it is."""
    from tsn_toolkit.pipeline.commands import retire_from_store

    result = retire_from_store(store, task)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"retired `{task}`: {result['freed_bytes']:,} bytes freed, {result['total_bytes']:,} left")
    if result["run"] is not None:
        click.echo(f"its record and packages stay in {result['run']}; `tsn report {result['run']}` leaves the task out from now on", err=True)


@click.command("infer-task")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--inputs", type=click.Path(path_type=Path, exists=True), help=".npy array of examples of one task; default: the tasks' own test data.")
@click.option("--rule", type=click.Choice(["one-shot", "binary"]), default="one-shot", show_default=True, help="One gradient, or halving.")
@click.option("--batch", type=click.IntRange(1), default=128, show_default=True, help="Test examples of one task that are looked at together.")
@terminal.JSON_OPTION
def infer_task(store: Path, inputs: Path | None, rule: Any, batch: int, as_json: bool) -> None:
    """Find the task of inputs by the entropy of STORE's answers, or measure how often that is right on its own test data.

    All tasks' full networks are in memory at once; they must have equally many classes and one normalisation.
    """
    from tsn_toolkit.pipeline.inference import infer_file, infer_on_test_data

    result = infer_on_test_data(store, rule, batch) if inputs is None else infer_file(store, inputs, rule)
    click.echo(json.dumps(result) if as_json else indented_text(result))


COMMANDS = (analyze, inspect, pack, unpack, retire, infer_task)
