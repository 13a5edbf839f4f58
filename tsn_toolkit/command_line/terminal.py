"""What the commands share: options, news on stderr, and how a command ends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
SET_OPTION = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the recipe; may be repeated.")


def loaded_recipe(name: str, overrides: tuple[str, ...]) -> Any:
    """The recipe of a name or file with its overrides, checked, with the options of its strategy.

    Raises:
        RecipeError: the recipe cannot be read, or breaks a rule.
    """
    from tsn_toolkit.pipeline.founding import strategy_config
    from tsn_toolkit.recipe.loading import load_recipe

    return load_recipe(name, overrides=overrides, strategy_config=strategy_config)


def hooks() -> Any:
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


def end_with(failures: list[str]) -> None:
    """Exit code 1 after a result was printed, with a line for each failure."""
    for failure in failures:
        click.echo(f"error: {failure}", err=True)
    click.get_current_context().exit(1)


def print_summary(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print the closing table of a run, or its summary as JSON."""
    from tsn_toolkit.report.closing_table import summary_table

    click.echo(json.dumps(summary) if as_json else summary_table(summary, out))
