"""Which numbers of a page come from different sources of the package: seeds of one variant, and the two sides of a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.markdown import markdown_table
from harness.results import Line
from harness.statistics import paired
from harness.verdict import checks

Lines = Mapping[str, Sequence[Line]]

_SHOWN = 8
"""Characters of a digest."""

_MEANING = (
    "A line names the digest of the package's source that measured it. The digest covers the whole package, so that different ones need not mean "
    "different numbers; the same one means the same code."
)


def versions(lines: Lines) -> list[str]:
    """The section: what was not measured by one source."""
    mixed = [[f"`{name}`", _by_source(own)] for name, own in lines.items() if len({line["source_sha256"] for line in own}) > 1]
    pairs = [row for sides in dict.fromkeys(check.sides for check in checks(lines) if check.sides) for row in _pair(lines, *sides)]
    section = ["## Versions", _MEANING]
    section.append(markdown_table(("variant of several sources", "source"), mixed) if mixed else "All seeds of each variant come from one source.")
    head = ("compared", "with", "source of the one", "source of the other")
    section.append(markdown_table(head, pairs) if pairs else "Both sides of each claim come, seed by seed, from one source.")
    return section


def _pair(lines: Lines, name: str, other: str) -> list[list[str]]:
    """One row where any seed of both sides has two sources."""
    both = paired(lines[name], lines[other])
    if all(line["source_sha256"] == base["source_sha256"] for line, base in both):
        return []
    return [[f"`{name}`", f"`{other}`", _by_source([line for line, _ in both]), _by_source([base for _, base in both])]]


def _by_source(own: Sequence[Line]) -> str:
    """`0a1b2c3d` (seeds 0, 2), ..."""
    seeds: dict[str, list[str]] = {}
    for line in own:
        seeds.setdefault(line["source_sha256"][:_SHOWN], []).append(str(line["seed"]))
    return ", ".join(f"`{source}` (seed{'s' if len(found) > 1 else ''} {', '.join(found)})" for source, found in seeds.items())
