"""Problems of a recipe: where each stands, and pydantic's errors in the words of the recipe."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tsn_toolkit.recipe.yaml_document import KeyPath
from tsn_toolkit.registry import did_you_mean

SHOWN_VALUE = 80
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Problem:
    """One problem of a recipe.

    Attributes:
        key: where it is, from the root.
        text: what is wrong, the value, the rule and what to do.
        line: of the file, for a flaw of the YAML itself, which no override mends; 0: wherever the value came from.
    """

    key: KeyPath
    text: str
    line: int = 0


@dataclass(frozen=True)
class Origins:
    """Where the values of a recipe come from.

    Attributes:
        file: the recipe file as the user named it.
        lines: key path -> line.
        overrides: key path -> the `--set` key that wrote it.
    """

    file: str
    lines: Mapping[KeyPath, int]
    overrides: Mapping[KeyPath, str]

    def place(self, key: KeyPath) -> tuple[int, str]:
        """Sort rank and text of the place of `key`: the nearest of its ancestors that was written somewhere."""
        for length in range(len(key), -1, -1):
            prefix = key[:length]
            if prefix in self.overrides:
                return 10**9, f"--set {self.overrides[prefix]}"
            if prefix in self.lines:
                return self.lines[prefix], f"{self.file}:{self.lines[prefix]}"
        return 0, self.file

    def render(self, problems: list[Problem]) -> str:
        """All problems, one per line, in the order of the file, overrides last."""
        rows = []
        for problem in problems:
            rank, place = (problem.line, f"{self.file}:{problem.line}") if problem.line else self.place(problem.key)
            key = ".".join(str(part) for part in problem.key)
            rows.append((rank, place if not key or place == f"--set {key}" else f"{place}: {key}", problem.text))
        ordered = sorted(rows, key=lambda row: row[0])
        return "\n".join(f"{place}: {text}" for _, place, text in ordered)


def describe_errors(root: type[BaseModel], error: ValidationError, prefix: KeyPath = ()) -> list[Problem]:
    """Everything pydantic found, as problems.

    Args:
        root: the model that was validated.
        error: what its validation raised.
        prefix: where `root` stands in the recipe.
    """
    return [
        _describe(
            root, prefix, tuple(part for part in detail["loc"] if part != "[key]"), kind=detail["type"], rule=detail["msg"], given=detail["input"]
        )
        for detail in error.errors(include_url=False)
    ]


def _describe(root: type[BaseModel], prefix: KeyPath, path: KeyPath, *, kind: str, rule: str, given: Any) -> Problem:
    owner, info = _find_field(root, path)
    key = (*prefix, *path)
    value = format_value(given)
    if kind == "extra_forbidden":
        known = _known_keys(owner) if owner else ()
        word = str(path[-1])
        return Problem(key, f"unknown key{did_you_mean(word, known)}, got {value}; known keys here: {', '.join(known)}. Correct or remove it.")
    if kind == "missing":
        meaning = f" ({info.description.rstrip('.')})" if info and info.description else ""
        return Problem(key, f"required key is missing{meaning}. Add it.")
    rule = re.sub(r"^(?:Input|String|Tuple) should", "must", rule).replace("a valid tuple", "a list").replace(" after validation, not 0", "")
    if kind == "model_type":
        rule = "must be a mapping of keys"
    hint = ""
    if kind == "literal_error" and isinstance(given, str) and info is not None:
        hint = did_you_mean(given, [str(word) for word in _literals(info.annotation)])
    return Problem(key, f"{rule}{hint}, got {value}. {_what_to_do(info)}")


def format_value(value: Any) -> str:
    """A wrong value as the recipe would write it, shortened."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 3] + "..."


def _what_to_do(info: FieldInfo | None) -> str:
    if info is None or info.is_required():
        return "Change it."
    if info.default_factory is not None:
        return "Change it or remove the key."
    return f"Change it or remove the key (default: {format_value(info.default)})."


def _known_keys(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(info.alias or name for name, info in model.model_fields.items())


def _find_field(root: type[BaseModel], path: KeyPath) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that holds the last key of `path`, and the field the error is in (of a list item: the list's field)."""
    owner: type[BaseModel] | None = root
    info: FieldInfo | None = None
    for position, part in enumerate(path):
        if owner is None:
            break
        fields = {field.alias or name: field for name, field in owner.model_fields.items()}
        if isinstance(part, str) and part in fields:
            info = fields[part]
            if position < len(path) - 1:
                owner = _model_inside(info.annotation)
        elif position == len(path) - 1 and isinstance(part, str):
            info = None  # an unknown key of `owner`
    return owner, info


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The model type that an annotation such as `tuple[Task, ...]`, `dict[str, Task]` or `Task | None` holds, if any."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_inside(inner) for inner in typing.get_args(annotation)]
    return next((model for model in found if model is not None), None)


def _literals(annotation: Any) -> list[Any]:
    """All words of the Literal types inside an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [word for inner in typing.get_args(annotation) for word in _literals(inner)]
