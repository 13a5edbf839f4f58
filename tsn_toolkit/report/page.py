"""The HTML report: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from tsn_toolkit.report import amounts
from tsn_toolkit.report.byte_bars import denominator_bars, part_bars
from tsn_toolkit.report.folded_warnings import SHOWN_WARNINGS, folded_warnings
from tsn_toolkit.report.gates import gate_rows
from tsn_toolkit.report.headline import headline
from tsn_toolkit.report.heat_map import HeatMap, heat_map, shade_floor
from tsn_toolkit.report.sharing_maps import sharing_maps
from tsn_toolkit.report.task_rows import batches, task_rows


def render_report(
    summary: Mapping[str, Any],
    *,
    inspection: Mapping[str, Any],
    graph_svg: str = "",
    parity: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    recipe_text: str = "",
    name: str = "",
) -> str:
    """Lay a run out as one HTML page.

    Args:
        summary: the content of `summary.json`; what is missing shows as `not measured`. `warnings`, a list of sentences, is optional.
        inspection: what `tsn inspect --json` prints of the run's store.
        graph_svg: picture of the model graph, a complete SVG document; "" leaves the section out.
        parity: task -> target -> content of the package's `parity.json`, with `integer_mac_share` beside it where it was profiled.
        recipe_text: the resolved recipe.
        name: the run's name, "" for a plain title.

    Returns:
        The page. Every value is escaped; the picture stands in an image, where it can run nothing.
    """
    rows, gates = task_rows(summary), gate_rows(parity or {})
    return (
        _environment()
        .get_template("report.html")
        .render(
            name=name or "Run",
            summary=summary,
            cards=headline(summary, rows, gates),
            warnings=folded_warnings(summary),
            shown_warnings=SHOWN_WARNINGS,
            rows=rows,
            several_targets=len({row.target for row in rows if row.target}) > 1,
            batches=batches(rows),
            threads=_threads({row.threads for row in rows if row.threads}),
            matrix=_accuracy_matrix(summary),
            parts=part_bars(inspection),
            inspection=inspection,
            lineage={task.get("name"): task for task in inspection.get("tasks") or []},
            found=_found_parents(summary),
            denominators=denominator_bars(summary),
            sharing=sharing_maps(inspection.get("sharing") or {}),
            graph=base64.b64encode(graph_svg.encode()).decode("ascii"),
            gates=gates,
            recipe_text=recipe_text,
        )
    )


def _threads(counts: set[int]) -> str:
    """`, 1 thread` or `, 1 or 2 threads`; "" where no benchmark says."""
    return f", {' or '.join(map(str, sorted(counts)))} thread{'' if counts == {1} else 's'}" if counts else ""


def _found_parents(summary: Mapping[str, Any]) -> dict[str, str]:
    """Task -> by what its parent was found, in words, where it was found by similarity."""
    words = {}
    for task in summary.get("tasks") or []:
        choice = task.get("parent_choice")
        if choice:
            numbers = ", ".join(f"{owner} {value:.3f}" for owner, value in choice["similarity"].items())
            words[str(task.get("name", ""))] = f"{choice['measure']} similarity: {numbers}"
    return words


def _accuracy_matrix(summary: Mapping[str, Any]) -> HeatMap | None:
    matrix = summary.get("R") or []
    names = [str(task.get("name", "")) for task in summary.get("tasks") or []]
    if not matrix:
        return None
    columns = names if len(names) == len(matrix[0]) else [str(position) for position in range(len(matrix[0]))]
    rows = names if len(names) == len(matrix) else [str(position) for position in range(len(matrix))]
    return heat_map([f"after {row}" for row in rows], columns, matrix, low=shade_floor(matrix))


def _environment() -> Environment:
    """Templates from the package; a name the template does not know is an error of ours, not an empty string."""
    folder = files("tsn_toolkit.report") / "templates"
    texts = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith((".html", ".css"))}
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        count=amounts.count,
        size=amounts.size,
        macs=amounts.macs,
        fraction=amounts.fraction,
        milliseconds=amounts.milliseconds,
    )
    environment.globals.update(ratio=amounts.ratio, measured=_measured)
    return environment


def _measured(value: Any, words: str = "{}") -> str:
    """`value` in a sentence, or `not measured`."""
    return amounts.NOT_MEASURED if value is None else words.format(value)
