"""Writes `docs/recipe.md`, every key of a recipe with its values, its default and its meaning, from the schema: python docs/recipe_page.py"""

from __future__ import annotations

import json
from inspect import cleandoc
from pathlib import Path
from typing import Any

from tsn_toolkit import registry
from tsn_toolkit.recipe.loading import SOURCES, source_options
from tsn_toolkit.recipe.schema import Recipe

PAGE = Path(__file__).with_name("recipe.md")
LISTS = {"plan.importance": "tsn_toolkit.importance"}
"""Keys that name an entry of a registry that no command lists: the values are its names."""

OPENING = """\
# Every key of a recipe

Written by `python docs/recipe_page.py` from `recipe/schema.py`; edit there. `tsn run RECIPE --dry-run` prints your recipe with every default,
those of the strategy and of the data source too. A key that is not on this page is refused, with the nearest one that is.

- A recipe is one YAML file. RECIPE is its path, or the name of one in `./recipes` or of those that come along (`tsn recipes list`).
- `--set training.epochs=3` overrides one key, as often as wanted; the value is YAML, a list is replaced as a whole: `--set 'targets=[cpu_openvino]'`.
- Relative paths count from the working folder; only a factory's file is also looked for beside the recipe. Paths may hold `~` and `${NAME}`, an
  environment variable.
- "required" stands where there is no default. null means none.
"""


def page() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema(by_alias=True)
    parts = [OPENING, *_tables("", schema, schema["$defs"], {})]
    parts.append("## data.options\n\nBy `data.source`; `tasks.datasets[].options` likewise.\n")
    for name in registry.names(SOURCES):
        source, options = registry.load(SOURCES, name), source_options(name).model_json_schema()
        table = _table("", options, {}) if options["properties"] else "No options.\n"
        parts.append(f"### {name.replace('_', '-')}\n\n{cleandoc(source.__doc__)}\n\n{source.load.__doc__.splitlines()[0]}\n\n{table}")
    parts.append(
        "## strategy.options\n\n`tsn strategies show NAME` prints what each option of a strategy means, and its default; "
        "`tsn run RECIPE --dry-run` those of your recipe.\n"
    )
    return "\n".join(parts)


def _tables(prefix: str, schema: dict[str, Any], definitions: dict[str, Any], places: dict[str, str]) -> list[str]:
    """The table of a section, then those of the sections in it, each where it occurs first; `places` remembers where."""
    inner = {}
    for key, field in schema["properties"].items():
        name, many = _section_of(field)
        place = f"{prefix}.{key}{many}".lstrip(".")
        if name is not None and places.setdefault(name, place) == place:
            inner[place] = definitions[name]
    title = f"## {prefix}\n\n{_one_line(schema['description'])}" if prefix else "## Top level"
    parts = [f"{title}\n\n{_table(prefix, schema, places)}"]
    for place, section in inner.items():
        parts += _tables(place, section, definitions, places)
    return parts


def _section_of(field: dict[str, Any]) -> tuple[str | None, str]:
    """The section that a key holds, and how its place is written: `[]` for a list of them, `.<pattern>` for a mapping to them."""
    for choice in field.get("anyOf", [field]):
        for inner, many in ((choice, ""), (choice.get("items", {}), "[]"), (choice.get("additionalProperties", {}), ".<pattern>")):
            if isinstance(inner, dict) and "$ref" in inner:
                return inner["$ref"].rsplit("/", 1)[-1], many
    return None, ""


def _table(prefix: str, schema: dict[str, Any], places: dict[str, str]) -> str:
    rows = ["| key | values | default | meaning |", "|-|-|-|-|"]
    for key, field in schema["properties"].items():
        name, _ = _section_of(field)
        values = _values(field) if name is None else f"see `{places[name]}`"
        package = LISTS.get(f"{prefix}.{key}")
        if package is not None:
            values = ", ".join(f"`{entry}`" for entry in registry.names(package))
        default = "required" if key in schema.get("required", []) else _default(field)
        cells = (f"`{key}`", values, default, field.get("description", ""))
        rows.append("| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _default(field: dict[str, Any]) -> str:
    """A section has none of its own."""
    if "default" in field:
        return f"`{json.dumps(field['default'])}`"
    return "`{}`" if field.get("type") == "object" else ""


def _values(field: dict[str, Any]) -> str:
    """The type of a value and its limits."""
    if "anyOf" in field:
        return " or ".join(_values(choice) for choice in field["anyOf"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_values(field['prefixItems'][0])}"
        return f"list of {_values(field['items'])}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"pattern: {_values(inner)}" if isinstance(inner, dict) else "mapping"
    names = {"string": "text", "boolean": "true, false", "integer": "whole number", "number": "number"}
    return names.get(kind, kind) + _limits(field)


def _limits(field: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" if isinstance(field[key], float) else f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    return (" " + ", ".join(limits)) if limits else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
