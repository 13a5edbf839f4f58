"""Commands that run a recipe, wholly or in part, and look back on the run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tsn_toolkit.command_line import terminal


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: runs/<recipe>.")
@terminal.SET_OPTION
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Overrides the recipe's seed.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
@terminal.JSON_OPTION
def run(recipe: str, out: Path | None, overrides: tuple[str, ...], seed: int | None, dry_run: bool, as_json: bool) -> None:
    """Run RECIPE (a name or a file) from data to verified packages and a report."""
    from tsn_toolkit.pipeline.stages import run as run_pipeline
    from tsn_toolkit.recipe.loading import resolve_recipe
    from tsn_toolkit.recipe.yaml_document import dump_yaml

    if seed is not None:
        overrides = (*overrides, f"seed={seed}")
    loaded = terminal.loaded_recipe(recipe, overrides)
    if dry_run:
        resolved = resolve_recipe(loaded)
        click.echo(json.dumps(resolved) if as_json else dump_yaml(resolved), nl=as_json)
        return
    out = Path("runs") / loaded.name if out is None else out
    terminal.print_summary(run_pipeline(loaded, out, terminal.hooks()), out, as_json)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@terminal.JSON_OPTION
def resume(folder: Path, as_json: bool) -> None:
    """Continue the run in FOLDER where it was stopped."""
    from tsn_toolkit.pipeline.stages import resume as resume_pipeline

    terminal.print_summary(resume_pipeline(folder, terminal.hooks()), folder, as_json)


@click.command("add-task")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Where packages of the new task go; default: none are made.")
@terminal.SET_OPTION
@terminal.JSON_OPTION
def add_task(store: Path, recipe: str, out: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Learn the first task of RECIPE that STORE does not hold and append it; earlier parts stay as they are."""
    from tsn_toolkit.pipeline.stages import add_task as add_to_store

    result = add_to_store(store, terminal.loaded_recipe(recipe, overrides), out, terminal.hooks())
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"added `{result['task']}`: {result['marginal_bytes']:,} bytes")
    for row in result["measured"]:
        click.echo(f"  {row['name']:<24} accuracy {row['accuracy']:.4f}  ({row['samples']} test examples)")


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: stdout.")
@terminal.SET_OPTION
def plan(recipe: str, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Make the compression plan of RECIPE, to read, edit and run with `--set plan.file=FILE`."""
    from tsn_toolkit.pipeline.commands import plan_text
    from tsn_toolkit.plan.file import require_place_for_plan

    if out is not None:
        require_place_for_plan(out)
    text = plan_text(terminal.loaded_recipe(recipe, overrides), terminal.hooks().say)
    if out is None:
        click.echo(text, nl=False)
        return
    from tsn_toolkit.files import write_text

    write_text(out, text)
    click.echo(f"plan: {out}", err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def report(folder: Path) -> None:
    """Write the report of the finished run in FOLDER again; tasks retired since are left out."""
    from tsn_toolkit.pipeline.summary import write_report

    click.echo(str(write_report(folder, terminal.hooks())))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Write a starter recipe and model file into FOLDER that run as they are."""
    from tsn_toolkit.starter import write_starter

    for path in write_starter(folder):
        click.echo(str(path))


COMMANDS = (init, run, resume, add_task, plan, report)
