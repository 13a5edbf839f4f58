"""Commands that list what a recipe can name: recipes, targets, strategies."""

from __future__ import annotations

from pathlib import Path

import click

from tsn_toolkit.command_line import terminal
from tsn_toolkit.errors import TargetError


@click.group()
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


@click.group()
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
        terminal.end_with(malformed)


@targets.command("show")
@click.argument("name")
def targets_show(name: str) -> None:
    """One target with every figure and its source."""
    from tsn_toolkit.recipe.yaml_document import dump_yaml
    from tsn_toolkit.target import load_target

    click.echo(dump_yaml(load_target(name).model_dump(mode="json", by_alias=True)), nl=False)


@click.group()
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


COMMANDS = (recipes, targets, strategies)


def _description(path: Path) -> str:
    """The `description` line of a recipe file, without loading anything it names."""
    from tsn_toolkit.recipe.yaml_document import parse_yaml

    data = parse_yaml(path.read_text(encoding="utf-8")).data
    return str(data.get("description", "")) if isinstance(data, dict) else ""
