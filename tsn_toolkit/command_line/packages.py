"""Commands that make packages for targets, verify them and measure them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tsn_toolkit.command_line import terminal
from tsn_toolkit.report.indented_text import indented_text


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--task", required=True, metavar="NAME", help="Name of the task; with --joint also several, NAME,NAME,..., or `all`.")
@click.option("--target", "target_name", required=True, help="Name or file of a target, or `all`.")
@click.option("--joint", is_flag=True, help="C targets: all named tasks in one program that holds what they share once.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; a folder per target is made in it.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of the data, in place of the recipe's.")
@terminal.JSON_OPTION
def export(store: Path, task: str, target_name: str, joint: bool, out: Path, data: Path | None, as_json: bool) -> None:
    """Export one task of STORE for a target, run it there, and keep it only if both gates hold; or several as one program."""
    from tsn_toolkit.pipeline.commands import export_from_store
    from tsn_toolkit.pipeline.joint_export import export_jointly

    result = (export_jointly if joint else export_from_store)(store, task, target_name, out, data, terminal.hooks())
    click.echo(json.dumps(result) if as_json else "\n".join(f"{name}: {package['path']}" for name, package in result["packages"].items()))
    if result["failed"]:
        terminal.end_with([f"{name}: {reason}" for name, reason in result["failed"].items()])


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--measure", is_flag=True, help="STORE only: measure the accuracy of every task on its test data.")
@terminal.JSON_OPTION
def verify(path: Path, measure: bool, as_json: bool) -> None:
    """Verify a PACKAGE (hashes, golden outputs in its own runtime) or a STORE (integrity, decoding, accuracy with --measure)."""
    from tsn_toolkit.pipeline.commands import verify_path

    result = verify_path(path, measure=measure)
    click.echo(json.dumps(result) if as_json else indented_text(result))
    for warning in result.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)
    if result.get("passed") is False:
        terminal.end_with([f"{path}: {failure}" for failure in result["failures"]])


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path, exists=True), help="Store of the task: time the dense network too, fp32 and vendor int8.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="With --store: folder of the data, in place of the recipe's.")
@terminal.JSON_OPTION
def bench(package: Path, store: Path | None, data: Path | None, as_json: bool) -> None:
    """Measure the latency of a PACKAGE in its own runtime, in a process of its own."""
    from tsn_toolkit.pipeline.commands import bench_path

    result = bench_path(package, store, data)
    click.echo(json.dumps(result) if as_json else indented_text(result))


COMMANDS = (export, verify, bench)
