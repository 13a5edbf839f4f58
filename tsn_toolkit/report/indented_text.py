"""A nested result as text that a person reads: one line a value, indented by depth."""

from __future__ import annotations

from typing import Any


def indented_text(value: Any) -> str:
    """The lines of dictionaries and lists, keys in the order given."""
    return "\n".join(_lines(value, ""))


def _lines(value: Any, indent: str) -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _keyed(str(key), item, indent)]
    if isinstance(value, list):
        return [line for item in value for line in _keyed("-", item, indent)]
    return [f"{indent}{value}"]


def _keyed(key: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [f"{indent}{key}:", *_lines(item, indent + "  ")]
    return [f"{indent}{key}: {item}"]
