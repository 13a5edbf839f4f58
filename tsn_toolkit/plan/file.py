"""The plan as a YAML file that a user may edit: written readably, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import yaml

from tsn_toolkit.contracts import CompressionPlan, GroupPlan, LayerPlan, ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.files import write_text
from tsn_toolkit.plan.density import density_problem
from tsn_toolkit.plan.macs import kept_shapes
from tsn_toolkit.plan.measured import measured_problems
from tsn_toolkit.plan.settings import LAYER_KEYS, LEAST_INPUTS, problem
from tsn_toolkit.registry import did_you_mean

SCHEMA = 1
KEYS = ("schema", "fingerprint", "max_code", "trunk_bit_width", "density_by_layer", "layers", "groups")
CHILD_KEY = "child_layers"
"""May be left out: tasks with a parent do then as all others."""
RECORD_KEY = "measured"
"""What a planner measured; may be left out, and decides nothing."""
GROUP_KEYS = ("keep", "size")
HEADER = """\
# What compression does to every layer and group of units. You may edit it.
# density_by_layer: learned = each task divides the sum of the slots below by its scores, starting from these densities; uniform | erk = they stand.
# layers: encoding codes | planes | shared; density in (0, 1] of the slots inside the kept units; granularity element | block(k) | n:m | unit
# (`n:m` has density n/m, `unit` and `planes` have density 1); bit_width 1..8 per own code.
# child_layers (may be left out): what a task with a parent does instead in these layers; density is then the fraction of the slots that it owns.
# groups: keep = units that stay, of size; a group that is not listed keeps all.
"""
RECORD_HEADER = """\
# measured: what the planner measured for this plan, option by option, and which limit bound; a record that decides nothing.
"""


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader that refuses a key given twice."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys are all different."""
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise yaml.constructor.ConstructorError(None, None, f"key `{key}` is given twice", node.value[number][0].start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_N_OF_M = ("tag:yaml.org,2002:str", re.compile(r"[0-9]+:[0-9]+$"))
"""`2:4` is text; YAML 1.1 would read it as a number of base 60."""

_StrictLoader.yaml_implicit_resolvers = {
    first: [_N_OF_M, *rules] if first.isdigit() else rules for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def plan_to_dict(plan: CompressionPlan) -> dict[str, Any]:
    """The plan as plain data, the content of its file."""
    content = {
        "schema": SCHEMA,
        "fingerprint": plan.fingerprint,
        "max_code": plan.max_code,
        "trunk_bit_width": plan.trunk_bit_width,
        "density_by_layer": plan.density_by_layer,
        "layers": _layers_to_dict(plan.layers),
        "groups": {group.name: {"keep": group.keep, "size": group.size} for group in plan.groups},
    }
    return content | ({CHILD_KEY: _layers_to_dict(plan.child_layers)} if plan.child_layers else {})


def _layers_to_dict(layers: tuple[LayerPlan, ...]) -> dict[str, Any]:
    return {layer.name: {key: getattr(layer, key) for key in LAYER_KEYS} for layer in layers}


def _layers_from_dict(content: Mapping[str, Any]) -> tuple[LayerPlan, ...]:
    return tuple(LayerPlan(name=name, **{**values, "density": float(values["density"])}) for name, values in content.items())


def plan_from_dict(content: Any, *, where: str = "the stored plan") -> CompressionPlan:
    """Plain data as a plan.

    Raises:
        PlanError: with all problems, each with its key, value and rule; `where` names the place.
    """
    problems = _problems(content)
    if problems:
        raise PlanError(f"The plan `{where}` has problems:\n" + "\n".join(f"  {sentence}." for sentence in problems) + "\nCorrect them.")
    return CompressionPlan(
        fingerprint=content["fingerprint"],
        max_code=content["max_code"],
        trunk_bit_width=content["trunk_bit_width"],
        layers=_layers_from_dict(content["layers"]),
        groups=tuple(GroupPlan(name=name, **values) for name, values in content["groups"].items()),
        density_by_layer=content["density_by_layer"],
        child_layers=_layers_from_dict(content.get(CHILD_KEY, {})),
    )


def plan_text_of(plan: CompressionPlan, measured: Mapping[str, Any] | None = None) -> str:
    """The text of the plan's file, with the record of what was measured for it where there is one; the same content gives the same bytes."""
    content = plan_to_dict(plan) | ({} if measured is None else {RECORD_KEY: dict(measured)})
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    return HEADER + ("" if measured is None else RECORD_HEADER) + text


def save_plan(plan: CompressionPlan, path: str | Path, *, measured: Mapping[str, Any] | None = None) -> None:
    """Write a plan as YAML; `measured` as in `BudgetedPlan`."""
    write_text(Path(path), plan_text_of(plan, measured))


def load_plan(path: str | Path, *, graph: ModelGraph | None = None) -> CompressionPlan:
    """Read a plan; with `graph`, also check that it belongs to that model.

    Raises:
        PlanError: with all problems of the file, each with its key, value and rule; or if it was made for another model.
    """
    content = _read(Path(path))
    plan = plan_from_dict(content, where=str(path))
    if graph is not None:
        check_plan(plan, graph)
    return plan


def require_place_for_plan(path: Path) -> None:
    """Refuses to put a plan where a file of another kind stands; an earlier plan may be written over.

    Raises:
        PlanError: there is one.
    """
    if not path.exists():
        return
    try:
        load_plan(path)
    except PlanError as error:
        raise PlanError(f"`{path}` exists and is no plan that can be read, so no plan is written there. Choose another path.") from error


def load_measured(path: str | Path) -> dict[str, Any] | None:
    """The record of what was measured for the plan in a file, None where it has none.

    Raises:
        PlanError: as `load_plan`.
    """
    load_plan(path)
    measured: dict[str, Any] | None = _read(Path(path)).get(RECORD_KEY)
    return measured


def _read(path: Path) -> Any:
    """The content of a plan file.

    Raises:
        PlanError: it cannot be read, or is not valid YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - derived from SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"The plan `{path}` cannot be read: {error}. Give the path of a plan file.") from error
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise PlanError(f"The plan `{path}` is not valid YAML: {' '.join(str(error).split())}. Correct it, or make the plan again.") from error


def check_plan(plan: CompressionPlan, graph: ModelGraph) -> None:
    """Refuse a plan that does not belong to the model.

    Raises:
        PlanError: if the fingerprint differs; if a layer is missing, unknown, the head, or too narrow for planes; if a group is unknown, frozen or of
            another size.
    """
    if plan.fingerprint != graph.fingerprint:
        ours, theirs = plan.fingerprint[:12], graph.fingerprint[:12]
        raise PlanError(f"The plan was made for another model: its fingerprint is {ours}, the model's {theirs}. Make the plan again.")
    expected = [layer.name for layer in graph.layers if layer.name != graph.head]
    given = [layer.name for layer in plan.layers]
    groups = {group.name: group for group in graph.groups}
    problems = [f"layer `{name}` is missing" for name in expected if name not in given]
    for section, named in (("layers", given), (CHILD_KEY, [layer.name for layer in plan.child_layers])):
        problems += [f"`{section}.{name}` is no layer of the model{did_you_mean(name, expected)}" for name in named if name not in expected]
    for group in plan.groups:
        if group.name not in groups:
            problems.append(f"`groups.{group.name}` is no group of the model{did_you_mean(group.name, groups)}")
        elif groups[group.name].size != group.size:
            problems.append(f"`groups.{group.name}.size` must be {groups[group.name].size}, got {group.size}")
        elif groups[group.name].frozen and group.keep < group.size:
            problems.append(f"`groups.{group.name}` is frozen, got keep {group.keep}: {groups[group.name].frozen}")
    shapes = {} if problems else kept_shapes(graph, {group.name: group.keep for group in plan.groups})
    for section, layer in [("layers", layer) for layer in plan.layers] + [(CHILD_KEY, layer) for layer in plan.child_layers]:
        if layer.encoding == "planes" and (inputs := prod(shapes.get(layer.name, (LEAST_INPUTS,))[1:])) < LEAST_INPUTS:
            problems.append(f"`{section}.{layer.name}.encoding` cannot be planes: its units have {inputs} inputs, planes need {LEAST_INPUTS}")
    if problems:
        raise PlanError("The plan does not fit the model:\n" + "\n".join(f"  {sentence}." for sentence in problems) + "\nCorrect it, or plan again.")


def _problems(content: Any) -> list[str]:
    """Everything that is wrong with a plan file's content."""
    if not isinstance(content, dict):
        return [f"it must be a mapping with the keys {', '.join(KEYS)}, got {type(content).__name__}"]
    record = measured_problems(content[RECORD_KEY]) if RECORD_KEY in content else []
    content = {key: value for key, value in content.items() if key != RECORD_KEY}
    found = record + _key_problems({key: value for key, value in content.items() if key != CHILD_KEY}, KEYS, "the plan")
    if "schema" in content and content["schema"] != SCHEMA:
        found.append(f"`schema` must be {SCHEMA}, got {content['schema']!r}")
    if "fingerprint" in content and not _is_hash(content["fingerprint"]):
        found.append(f"`fingerprint` must be 64 hexadecimal digits, got {content['fingerprint']!r}")
    found += [problem(key, content[key]) for key in ("max_code", "trunk_bit_width", "density_by_layer") if key in content]
    for section, keys in (("layers", LAYER_KEYS), (CHILD_KEY, LAYER_KEYS), ("groups", GROUP_KEYS)):
        entries = content.get(section, {})
        if not isinstance(entries, dict):
            found.append(f"`{section}` must be a mapping from names to settings, got {type(entries).__name__}")
            continue
        for name, values in entries.items():
            found += _entry_problems(section, name, values, keys)
    return [sentence for sentence in found if sentence]


def _entry_problems(section: str, name: Any, values: Any, keys: tuple[str, ...]) -> list[str]:
    """Everything that is wrong with one layer or group."""
    where = f"`{section}.{name}`"
    if not isinstance(name, str) or not isinstance(values, dict):
        return [f"{where} must be a name with a mapping of {', '.join(keys)}, got {values!r}"]
    found = _key_problems(values, keys, where)
    if section != "groups":
        found += [problem(key, values[key], where=where) for key in keys if key in values]
        return found if any(found) else [density_problem(values["encoding"], values["granularity"], values["density"], where)]
    size, keep = values.get("size", 1), values.get("keep", 1)
    if "size" in values and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        found.append(f"`size` of {where} must be a whole number of at least 1, got {size!r}")
    elif "keep" in values and "size" in values and (not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= size):
        found.append(f"`keep` of {where} must be a whole number in 1..{size}, got {keep!r}")
    return found


def _key_problems(values: dict[Any, Any], keys: tuple[str, ...], where: str) -> list[str]:
    """Unknown and missing keys."""
    unknown = [f"`{key}` of {where} is unknown{did_you_mean(str(key), keys)}; known: {', '.join(keys)}" for key in values if key not in keys]
    return unknown + [f"`{key}` of {where} is missing" for key in keys if key not in values]


def _is_hash(value: Any) -> bool:
    """sha256 in lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
