"""A recipe file and `--set` overrides in, one validated `Recipe` out; or one error with everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tsn_toolkit import registry
from tsn_toolkit.errors import RecipeError, TsnError
from tsn_toolkit.factory import parse_factory
from tsn_toolkit.recipe.catalogue import find_recipe
from tsn_toolkit.recipe.checks import find_conflicts
from tsn_toolkit.recipe.environment import is_machine_path, working_path
from tsn_toolkit.recipe.problems import Origins, Problem, describe_errors
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.recipe.yaml_document import KeyPath, YamlDocument, parse_yaml

SOURCES = "tsn_toolkit.data.sources"
"""Registry of data sources."""

OptionsModel = Callable[[str], type[BaseModel]]
"""Name of a plug-in -> pydantic model of its options; raises a TsnError for an unknown name."""


def source_options(name: str) -> type[BaseModel]:
    """The options model of a data source."""
    model: type[BaseModel] = registry.load(SOURCES, name).Options
    return model


def load_recipe(
    path_or_name: str | Path, *, overrides: Iterable[str] = (), strategy_config: OptionsModel, source_config: OptionsModel = source_options
) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path_or_name: a file, or the name of a recipe.
        overrides: `a.b.c=value` texts, in order; values are YAML. A list is replaced as a whole.
        strategy_config: strategy name -> options model, so that strategy options are validated in the same pass.
        source_config: data source name -> options model.

    Returns:
        The recipe with all defaults filled in, those of the strategy's and the source's options included. A factory file is given by its path from
        the working folder; one that is not there is looked for beside the recipe.

    Raises:
        RecipeError: lists every problem as `file:line: key: what is wrong` or `--set key: what is wrong`.
    """
    path = find_recipe(path_or_name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text ({problem}). Name a YAML file.") from problem
    document = parse_yaml(text)
    problems = [Problem(flaw.path, flaw.text, flaw.line) for flaw in document.flaws]
    lines = dict(document.lines)
    data = _as_mapping(document, problems)
    written: dict[KeyPath, str] = {}
    for override in overrides:
        _apply_override_(data, override, lines, written, problems)
    _anchor_factories_(data, path.parent)
    recipe: Recipe | None = None
    if isinstance(document.data, dict):  # after a syntax error there is nothing to validate
        recipe = _validate(data, strategy_config, source_config, problems)
    if problems or recipe is None:
        listing = Origins(str(path), lines, written).render(problems)
        raise RecipeError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in recipe {path}:\n{listing}")
    return recipe


def resolve_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with every default, in the order of the schema; paths keep their `${NAME}`. `dump_yaml` writes it."""
    return recipe.model_dump(mode="json", by_alias=True)


def _as_mapping(document: YamlDocument, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(document.data, dict):
        return document.data
    if not problems:
        kind = "empty" if document.data is None else f"a {type(document.data).__name__}"
        problems.append(Problem((), f"the file is {kind}; a recipe is a mapping of keys. Start from `tsn init` or copy a recipe."))
    return {}


def _apply_override_(data: dict[str, Any], override: str, lines: dict[KeyPath, int], written: dict[KeyPath, str], problems: list[Problem]) -> None:
    """Write one `a.b.c=value` into `data`, or add a problem."""
    name, equals, text = override.partition("=")
    key = tuple(part.strip() for part in name.split("."))
    written_key = ".".join(key)
    if not equals or not all(key):
        written[(override,)] = override
        problems.append(Problem((override,), "is not of the form `key=value`, for example `training.epochs=3`. Correct it."))
        return
    value = parse_yaml(text)
    if value.flaws:
        written[key] = written_key
        problems.append(Problem(key, f"{text!r} is {value.flaws[0].text}"))
        return
    place = data
    for depth, part in enumerate(key[:-1], start=1):
        if place.get(part) is None:
            place[part] = {}
            written[key[:depth]] = written_key
        inner = place[part]
        if not isinstance(inner, dict):
            written[key] = written_key
            problems.append(Problem(key, f"`{'.'.join(key[:depth])}` holds {inner!r}, which has no keys. Set it as a whole."))
            return
        place = inner
    place[key[-1]] = value.data
    for places in (lines, written):  # what stood below this key is gone
        for stale in [path for path in places if path[: len(key)] == key]:
            del places[stale]
    written[key] = written_key


def _anchor_factories_(data: dict[str, Any], folder: Path) -> None:
    """Rewrites the factory files of a recipe in `folder`, in place, as paths from the working folder."""
    sources = [data.get("data"), *_dataset_entries(data)]
    for section in (data.get("model"), *(source.get("options") for source in sources if isinstance(source, dict))):
        if isinstance(section, dict) and isinstance(section.get("factory"), str):
            section["factory"] = _anchored(section["factory"], folder)


def _dataset_entries(data: Mapping[str, Any]) -> list[Any]:
    """The entries of `tasks.datasets`, as far as there is such a list."""
    tasks = data.get("tasks")
    entries = tasks.get("datasets") if isinstance(tasks, Mapping) else None
    return list(entries) if isinstance(entries, list) else []


def _anchored(text: str, folder: Path) -> str:
    try:
        call = parse_factory(text)
    except TsnError:  # reported with all other problems
        return text
    if not call.is_file or "$" in call.module:
        return text
    file = Path(call.module).expanduser()
    if is_machine_path(call.module):
        found = file
    elif not file.is_file() and (folder / file).is_file():
        found = folder / file
    else:
        return text
    return text.replace(call.module, working_path(found), 1)


def _validate(data: dict[str, Any], strategy_config: OptionsModel, source_config: OptionsModel, problems: list[Problem]) -> Recipe | None:
    """Validate everything, adding to `problems`; None when something is wrong."""
    found: list[Problem] = []
    filled = dict(data)
    for section, name_key, default, config in (("strategy", "name", "tsn", strategy_config), ("data", "source", None, source_config)):
        filled[section] = _fill_options(data.get(section), (section,), name_key, default, config, found)
        if section not in data and filled[section] is None:
            del filled[section]
    if entries := _dataset_entries(data):
        common = data["data"].get("source") if isinstance(data.get("data"), Mapping) else None
        listed = [_fill_entry(entry, position, common, source_config, found) for position, entry in enumerate(entries)]
        filled["tasks"] = {**data["tasks"], "datasets": listed}
    broken: set[str | int] = set()
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(filled)
    except ValidationError as error:
        found += describe_errors(Recipe, error)
        broken = {detail["loc"][0] for detail in error.errors(include_url=False) if detail["loc"]}
    sections = _valid_sections(filled, broken)
    found += [Problem(key, text) for key, text in find_conflicts(sections)]
    problems += found
    return recipe


def _fill_entry(entry: Any, position: int, common: Any, config: OptionsModel, problems: list[Problem]) -> Any:
    """An entry of `tasks.datasets` likewise; one of the same source that leaves its options out takes those of `data`."""
    if not isinstance(entry, Mapping):
        return entry
    source, options = entry.get("source"), entry.get("options")
    if options is None and source in (None, common):
        return entry
    named = {**entry, "source": common if source is None else source, "options": {} if options is None else options}
    return _fill_options(named, ("tasks", "datasets", position), "source", None, config, problems)


def _fill_options(section: Any, place: KeyPath, name_key: str, default: str | None, config: OptionsModel, problems: list[Problem]) -> Any:
    """The section with its options validated by the plug-in's own model and all their defaults filled in."""
    if section is None and default is not None:
        section = {}
    if not isinstance(section, Mapping):
        return section
    plugin = section.get(name_key, default)
    options = section.get("options", {})
    if not isinstance(plugin, str):
        return section
    try:
        model = config(plugin)
    except TsnError as error:
        problems.append(Problem((*place, name_key), str(error)))
        return section
    if not isinstance(options, Mapping):
        return section
    try:
        filled = model.model_validate(dict(options)).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        problems += describe_errors(model, error, (*place, "options"))
        return section
    return {**section, "options": filled}


def _valid_sections(data: Mapping[str, Any], broken: set[str | int]) -> dict[str, Any]:
    """Top-level values that are valid by themselves: validated one by one inside an otherwise minimal recipe."""
    minimal: dict[str, Any] = {"name": "check", "model": {"factory": "module:factory"}, "data": {"source": "digits"}}
    good = {key: value for key, value in data.items() if key not in broken}
    complete = Recipe.model_validate({**minimal, **good})
    absent = broken | ({"model", "data"} - set(data))
    return {name: getattr(complete, name) for name in Recipe.model_fields if name not in absent}
