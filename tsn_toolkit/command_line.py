"""The command `tsn`. Errors that a user can mend end here: one message, exit code 1; wrong usage is 2."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tsn_toolkit import __version__
from tsn_toolkit.errors import TargetError, TsnError
from tsn_toolkit.report.indented_text import indented_text
from tsn_toolkit.report.inspection_text import inspection_text
from tsn_toolkit.termination import ending_cleanly

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
SET_OPTION = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the recipe; may be repeated.")


class _Boundary(click.Group):
    """Turns the errors of the toolkit into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ending_cleanly():
                return super().invoke(ctx)
        except TsnError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader has gone; nothing may be written at exit
            ctx.exit(1)
        except OSError as error:
            if ctx.params.get("debug") or error.filename is None:
                raise
            reason = error.strerror or type(error).__name__
            click.echo(f"error: {error.filename}: {reason}. Check the path, its permissions and the space on the disk.", err=True)
            ctx.exit(1)


@click.group(cls=_Boundary, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="tsn")
def main(debug: bool) -> None:
    """Compress one trained PyTorch model into many small per-task models that share their weights to the bit."""


# ------------------------------------------------------------------------------------------------------------------------ runs


@main.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: runs/<recipe>.")
@SET_OPTION
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Overrides the recipe's seed.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
@JSON_OPTION
def run(recipe: str, out: Path | None, overrides: tuple[str, ...], seed: int | None, dry_run: bool, as_json: bool) -> None:
    """Run RECIPE (a name or a file) from data to verified packages and a report."""
    from tsn_toolkit.pipeline.stages import run as run_pipeline
    from tsn_toolkit.recipe.loading import resolve_recipe
    from tsn_toolkit.recipe.yaml_document import dump_yaml

    if seed is not None:
        overrides = (*overrides, f"seed={seed}")
    loaded = _recipe(recipe, overrides)
    if dry_run:
        resolved = resolve_recipe(loaded)
        click.echo(json.dumps(resolved) if as_json else dump_yaml(resolved), nl=as_json)
        return
    out = Path("runs") / loaded.name if out is None else out
    _finish(run_pipeline(loaded, out, _hooks()), out, as_json)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@JSON_OPTION
def resume(folder: Path, as_json: bool) -> None:
    """Continue the run in FOLDER where it was stopped."""
    from tsn_toolkit.pipeline.stages import resume as resume_pipeline

    _finish(resume_pipeline(folder, _hooks()), folder, as_json)


@main.command("add-task")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Where packages of the new task go; default: none are made.")
@SET_OPTION
@JSON_OPTION
def add_task(store: Path, recipe: str, out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Learn the first task of RECIPE that STORE does not hold and append it; earlier parts stay as they are."""
    from tsn_toolkit.pipeline.stages import add_task as add_to_store

    result = add_to_store(store, _recipe(recipe, overrides), out, _hooks())
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"added `{result['task']}`: {result['marginal_bytes']:,} bytes")
    for row in result["measured"]:
        click.echo(f"  {row['name']:<24} accuracy {row['accuracy']:.4f}  ({row['samples']} test examples)")


@main.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: stdout.")
@SET_OPTION
def plan(recipe: str, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Make the compression plan of RECIPE, to read, edit and run with `--set plan.file=FILE`."""
    from tsn_toolkit.pipeline.commands import plan_text

    text = plan_text(_recipe(recipe, overrides), _hooks().say)
    if out is None:
        click.echo(text, nl=False)
        return
    from tsn_toolkit.files import write_text

    write_text(out, text)
    click.echo(f"plan: {out}", err=True)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write the report of the finished run in FOLDER again; tasks retired since are left out."""
    from tsn_toolkit.pipeline.summary import write_report

    click.echo(str(write_report(folder, _hooks())))


# --------------------------------------------------------------------------------------------------------------- model and store


@main.command()
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
@JSON_OPTION
def analyze(
    model: str, inputs: str, checkpoint: Path | None, head: str | None, target_name: str | None, out: Path | None, as_json: bool
) -> None:
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


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@JSON_OPTION
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


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task, its chain and who answers for it; may be repeated.")
@JSON_OPTION
def pack(store: Path, file: Path, tasks: tuple[str, ...], as_json: bool) -> None:
    """Write STORE as one FILE, in which the bits of all tasks lie together in one array of words per layer."""
    from tsn_toolkit.pipeline.commands import pack_to_file

    result = pack_to_file(store, file, tasks)
    text = f"{file}: {result['total_bytes']:,} bytes, {result['word_bytes']:,} of them words; tasks {', '.join(result['tasks']) or '(none)'}"
    click.echo(json.dumps(result) if as_json else text)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@JSON_OPTION
def unpack(file: Path, folder: Path, as_json: bool) -> None:
    """Write the store in the packed FILE into DIR, byte for byte as it was packed."""
    from tsn_toolkit.pipeline.commands import unpack_to_folder

    result = unpack_to_folder(file, folder)
    click.echo(json.dumps(result) if as_json else f"{folder}: {len(result['tasks'])} tasks, {result['total_bytes']:,} bytes")


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("task")
@JSON_OPTION
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


@main.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--task", required=True, metavar="NAME", help="Name of the task; with --joint also several, NAME,NAME,..., or `all`.")
@click.option("--target", "target_name", required=True, help="Name or file of a target, or `all`.")
@click.option("--joint", is_flag=True, help="C targets: all named tasks in one program that holds what they share once.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; a folder per target is made in it.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of the data, in place of the recipe's.")
@JSON_OPTION
def export(store: Path, task: str, target_name: str, joint: bool, out: Path, data: Path | None, as_json: bool) -> None:
    """Export one task of STORE for a target, run it there, and keep it only if both gates hold; or several as one program."""
    from tsn_toolkit.pipeline.commands import export_from_store
    from tsn_toolkit.pipeline.joint_export import export_jointly

    result = (export_jointly if joint else export_from_store)(store, task, target_name, out, data, _hooks())
    click.echo(json.dumps(result) if as_json else "\n".join(f"{name}: {package['path']}" for name, package in result["packages"].items()))
    if result["failed"]:
        _end_with([f"{name}: {reason}" for name, reason in result["failed"].items()])


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--measure", is_flag=True, help="STORE only: measure the accuracy of every task on its test data.")
@JSON_OPTION
def verify(path: Path, measure: bool, as_json: bool) -> None:
    """Verify a PACKAGE (hashes, golden outputs in its own runtime) or a STORE (integrity, decoding, accuracy with --measure)."""
    from tsn_toolkit.pipeline.commands import verify_path

    result = verify_path(path, measure=measure)
    click.echo(json.dumps(result) if as_json else indented_text(result))
    for warning in result.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)
    if result.get("passed") is False:
        _end_with([f"{path}: {failure}" for failure in result["failures"]])


@main.command("infer-task")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--inputs", type=click.Path(path_type=Path, exists=True), help=".npy array of examples of one task; default: the tasks' own test data.")
@click.option("--rule", type=click.Choice(["one-shot", "binary"]), default="one-shot", show_default=True, help="One gradient, or halving.")
@click.option("--batch", type=click.IntRange(1), default=128, show_default=True, help="Test examples of one task that are looked at together.")
@JSON_OPTION
def infer_task(store: Path, inputs: Path | None, rule: Any, batch: int, as_json: bool) -> None:
    """Find the task of inputs by the entropy of STORE's answers, or measure how often that is right on its own test data.

    All tasks' full networks are in memory at once; they must have equally many classes and one normalisation.
    """
    from tsn_toolkit.pipeline.inference import infer_file, infer_on_test_data

    result = infer_on_test_data(store, rule, batch) if inputs is None else infer_file(store, inputs, rule)
    click.echo(json.dumps(result) if as_json else indented_text(result))


@main.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path, exists=True), help="Store of the task: time the dense network too, fp32 and vendor int8.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="With --store: folder of the data, in place of the recipe's.")
@JSON_OPTION
def bench(package: Path, store: Path | None, data: Path | None, as_json: bool) -> None:
    """Measure the latency of a PACKAGE in its own runtime, in a process of its own."""
    from tsn_toolkit.pipeline.commands import bench_path

    result = bench_path(package, store, data)
    click.echo(json.dumps(result) if as_json else indented_text(result))


# ----------------------------------------------------------------------------------------------------------------------- lists


@main.group()
def recipes() -> None:
    """Recipes that come with the package or stand in ./recipes."""


@recipes.command("list")
def recipes_list() -> None:
    """Names of the recipes."""
    from tsn_toolkit.recipe.catalogue import list_recipes

    for name, path in list_recipes().items():
        click.echo(f"{name:<28} {_description(path)}")


@recipes.command("show")
@click.argument("name")
def recipes_show(name: str) -> None:
    """One recipe's text."""
    from tsn_toolkit.recipe.catalogue import find_recipe

    click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@main.group()
def targets() -> None:
    """Hardware targets."""


@targets.command("list")
def targets_list() -> None:
    """Names of the targets."""
    from tsn_toolkit.target import list_targets, load_target

    malformed = []
    for name in list_targets():
        try:
            target = load_target(name)
        except TargetError as error:
            malformed.append(str(error))
        else:
            click.echo(f"{name:<28} {target.kind:<5} {target.runtime}")
    if malformed:
        _end_with(malformed)


@targets.command("show")
@click.argument("name")
def targets_show(name: str) -> None:
    """One target with every figure and its source."""
    from tsn_toolkit.recipe.yaml_document import dump_yaml
    from tsn_toolkit.target import load_target

    click.echo(dump_yaml(load_target(name).model_dump(mode="json", by_alias=True)), nl=False)


@main.group()
def strategies() -> None:
    """Continual-learning strategies."""


@strategies.command("list")
def strategies_list() -> None:
    """Names of the strategies."""
    from tsn_toolkit import registry

    for name in registry.names("tsn_toolkit.strategies"):
        click.echo(name)


@strategies.command("show")
@click.argument("name")
def strategies_show(name: str) -> None:
    """A strategy's method, its isolation and its options."""
    import inspect as source

    from tsn_toolkit import registry

    module = registry.load("tsn_toolkit.strategies", name)
    click.echo(source.cleandoc(module.__doc__ or ""))
    click.echo(f"\nisolation: {module.ISOLATION}\nsettings: {', '.join(module.SETTINGS)}\n\noptions:")
    for key, field in module.Config.model_fields.items():
        click.echo(f"  {key}: {field.default}")
    for owner in module.Config.__mro__:
        if owner.__module__.startswith("tsn_toolkit."):
            click.echo("\n" + source.cleandoc(owner.__doc__ or ""))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a starter recipe and model file into FOLDER that run as they are."""
    from tsn_toolkit.starter import write_starter

    for path in write_starter(folder):
        click.echo(str(path))


# --------------------------------------------------------------------------------------------------------------------- private


def _recipe(name: str, overrides: tuple[str, ...]) -> Any:
    from tsn_toolkit.pipeline.founding import strategy_config
    from tsn_toolkit.recipe.loading import load_recipe

    return load_recipe(name, overrides=overrides, strategy_config=strategy_config)


def _hooks() -> Any:
    """News and progress bars on stderr."""
    from tsn_toolkit.pipeline.hooks import Hooks

    return Hooks(say=lambda line: click.echo(line, err=True), progress=_progress_bar())


def _progress_bar() -> Callable[[str, int, int], None]:
    """A bar per phase on a terminal; without one, nothing, since `say` tells the stages."""
    from tqdm import tqdm

    state: dict[str, Any] = {"bar": None, "started": time.monotonic()}

    def progress(phase: str, done: int, total: int) -> None:
        if done == 1 or state["bar"] is None:
            state["bar"] = tqdm(total=total, desc=f"  {phase}", unit="step", leave=False, disable=not sys.stderr.isatty())
        state["bar"].update(1)
        if done == total:
            state["bar"].close()
            state["bar"] = None

    return progress


def _end_with(failures: list[str]) -> None:
    """Exit code 1 after a result was printed, with a line for each failure."""
    for failure in failures:
        click.echo(f"error: {failure}", err=True)
    click.get_current_context().exit(1)


def _finish(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    from tsn_toolkit.report.closing_table import summary_table

    click.echo(json.dumps(summary) if as_json else summary_table(summary, out))


def _description(path: Path) -> str:
    """The `description` line of a recipe file, without loading anything it names."""
    from tsn_toolkit.recipe.yaml_document import parse_yaml

    data = parse_yaml(path.read_text(encoding="utf-8")).data
    return str(data.get("description", "")) if isinstance(data, dict) else ""
