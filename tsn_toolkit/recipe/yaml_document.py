"""YAML with line numbers: text in, plain data and the line of every key out; nothing of the text is executed.

Scalars follow the YAML 1.2 core rules: `1e-3` is a number, `no` and `on` are text, `010` is text. A key written twice and an alias are errors: both
make a file say something else than what its reader sees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]
"""Where a value stands: mapping keys and list positions from the root."""


@dataclass(frozen=True)
class Flaw:
    """Something wrong at one place of a file: key path, 1-based line, one sentence."""

    path: KeyPath
    line: int
    text: str


@dataclass(frozen=True)
class YamlDocument:
    """What a YAML text holds.

    Attributes:
        data: dicts, lists, str, int, float, bool and None.
        lines: key path -> 1-based line; of a mapping's entry the line of its key.
        flaws: duplicate keys, aliases, keys that are no text; or the one syntax error, with `data` None.
    """

    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader with the scalar rules of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """SafeDumper that quotes whatever YAML 1.1 or 1.2 would read as something other than text."""


_SCALARS = (
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    ("tag:yaml.org,2002:float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def parse_yaml(text: str) -> YamlDocument:
    """Read one YAML document.

    Args:
        text: the file's text.

    Returns:
        The data with its lines. Flaws are returned, not raised, so that they can be reported with all others.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        return YamlDocument(None, {}, (Flaw((), line, f"not valid YAML: {problem.problem}. Correct the line."),))
    except RecursionError:
        return YamlDocument(None, {}, (Flaw((), 1, "not usable: the values are nested hundreds of levels deep. Flatten them."),))
    except yaml.YAMLError as problem:  # a character that YAML does not allow
        return YamlDocument(None, {}, (Flaw((), 1, f"not valid YAML: {' '.join(str(problem).split())}. Remove the character."),))
    if node is None:
        return YamlDocument(None)
    builder = _Builder(loader)
    data = builder.build(node, ())
    return YamlDocument(data, builder.lines, tuple(builder.flaws))


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML, keys in the order given, the same bytes every time; `parse_yaml` reads it back unchanged."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120))


class _Builder:
    """Turns composed nodes into plain data, noting lines and flaws on the way."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[KeyPath, int] = {}
        self.flaws: list[Flaw] = []
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if id(node) in self._seen:
            self.flaws.append(Flaw(path, line, "this value is a YAML alias (*name). Write the value out."))
            return None
        self._seen.add(id(node))
        if isinstance(node, yaml.CollectionNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.flaws.append(Flaw(path, line, f"tag {node.tag!r} is not allowed: a value is plain data. Remove the tag."))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, position)) for position, child in enumerate(node.value)]
        return self._scalar(node, path, line)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.flaws.append(Flaw(path, line, "a key of this mapping is a list or mapping. A key must be text."))
                continue
            key = key_node.value
            entry = (*path, key)
            if key in result:
                self.flaws.append(Flaw(entry, line, f"this key was already given on line {self.lines[entry]}. Keep one of the two."))
                continue
            self.lines[entry] = line
            result[key] = self.build(value_node, entry)
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return node.value
        known = {tag for tag, _, _ in _SCALARS}
        if node.tag not in known:
            self.flaws.append(Flaw(path, line, f"tag {node.tag!r} is not allowed: a value is text, a number, true, false or null. Remove the tag."))
            return None
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as problem:
            self.flaws.append(Flaw(path, line, f"{node.value!r} is not a value of its tag ({problem}). Correct it."))
            return None
