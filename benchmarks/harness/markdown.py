"""Markdown of a page."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown_table(("a", "b"), [("1", "2")]))
    | a | b |
    | - | - |
    | 1 | 2 |
    """
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["-"] * len(head), *rows))
