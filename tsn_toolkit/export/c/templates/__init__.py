"""C text with `@name` where something is filled in; `@@` is a plain `@`."""

from __future__ import annotations

import string
from importlib import resources


class _Template(string.Template):
    delimiter = "@"  # C and make use $


def read(name: str) -> str:
    """Text of a file of this folder."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def fill(file: str, /, **values: object) -> str:
    """Text of a file of this folder with values in place of their names."""
    return _Template(read(file)).substitute(values)
