"""The graph as one self-contained SVG, collapsed until it is readable.

Boxes stand below one another in execution order, one per layer with the norm and the element-wise operations that follow it. Models with many layers
are collapsed by module until at most `MAX_BOXES` boxes are left. Edges to the next box are short lines; all others run in lanes to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from tsn_toolkit.contracts import ModelGraph, NodeRecord
from tsn_toolkit.graph.listing import layer_groups

MAX_BOXES = 60
BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN, LANE = 470, 40, 14, 16, 10
NAME_CHARACTERS, DETAIL_CHARACTERS = 60, 80
"""At 7.3 and 5.5 pixels per character these fit into a box."""
GOLDEN_ANGLE = 137.508


@dataclass
class Box:
    """Consecutive nodes drawn as one box."""

    key: str
    nodes: list[NodeRecord] = field(default_factory=list)


def graph_svg(graph: ModelGraph) -> str:
    """A picture of the graph: shape, share of the MACs and unit group (colour) of every layer; frozen groups are grey."""
    boxes = collapse(graph)
    place = {node.name: number for number, box in enumerate(boxes) for node in box.nodes}
    pairs = sorted({(place[source], place[destination]) for source, destination, _ in graph.edges if place[source] < place[destination]})
    lanes = _lanes([pair for pair in pairs if pair[1] > pair[0] + 1])
    width = 2 * MARGIN + BOX_WIDTH + LANE * (2 + max(lanes.values(), default=-1) + 1)
    height = 2 * MARGIN + len(boxes) * (BOX_HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>Model graph</title>",
        "<style>text{font-family:ui-monospace,Menlo,Consolas,monospace;fill:#1c2430}.n{font-size:12px;font-weight:600}.d{font-size:9px;fill:#45505f}"
        ".e{fill:none;stroke:#8a94a3;stroke-width:1.2}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    parts += [_edge(pair, lanes.get(pair)) for pair in pairs]
    owner, colours = layer_groups(graph), _colours(graph)
    parts += [_draw(box, number, graph, owner, colours) for number, box in enumerate(boxes)]
    return "\n".join([*parts, "</svg>\n"])


def collapse(graph: ModelGraph) -> list[Box]:
    """The boxes of a picture: by layer where that is few enough, else by ever shorter module paths, else by equal runs."""
    deepest = max((len(node.module.split(".")) for node in graph.nodes), default=1)
    boxes: list[Box] = []
    for depth in range(deepest, 0, -1):
        boxes = _boxes(graph, depth, by_layer=depth == deepest)
        if len(boxes) <= MAX_BOXES:
            return boxes
    run = -(-len(boxes) // MAX_BOXES)
    merged = []
    for start in range(0, len(boxes), run):
        part = boxes[start : start + run]
        key = part[0].key if len(part) == 1 else f"{part[0].key} ... {part[-1].key}"
        merged.append(Box(key, [node for box in part for node in box.nodes]))
    return merged


def _boxes(graph: ModelGraph, depth: int, *, by_layer: bool) -> list[Box]:
    """Runs of nodes that belong together at one depth of the module tree."""
    sources: dict[str, list[str]] = {}
    for source, destination, _ in graph.edges:
        sources.setdefault(destination, []).append(source)
    boxes: list[Box] = []
    for node in graph.nodes:
        key = ".".join(node.module.split(".")[:depth]) if node.module else ""
        previous = {other.name for other in boxes[-1].nodes} if boxes else set()
        follows = bool(previous.intersection(sources.get(node.name, [])))
        merges = len(set(sources.get(node.name, []))) > 1
        small = node.op not in {"input", "output"} and (node.op == "batch_norm" or not node.parameter_bytes and not merges)
        inside = bool(boxes) and boxes[-1].nodes[0].op != "input" and follows
        same = bool(boxes) and bool(key) and boxes[-1].key == key and not by_layer
        if same or inside and small and (by_layer or not key):
            boxes[-1].nodes.append(node)
        else:
            own = by_layer and not node.parameter_bytes
            boxes.append(Box(f"{key}: {node.op}" if own and key else key or node.op, [node]))
    return boxes


def _lanes(pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane for every long edge so that no two in one lane overlap; short ones first, next to the boxes."""
    lanes: dict[tuple[int, int], int] = {}
    for pair in sorted(pairs, key=lambda p: (p[1] - p[0], p)):
        taken = {lane for other, lane in lanes.items() if other[0] < pair[1] and pair[0] < other[1]}
        lanes[pair] = next(lane for lane in range(len(pairs)) if lane not in taken)
    return lanes


def _top(number: int) -> int:
    """Upper edge of a box in pixels."""
    return MARGIN + number * (BOX_HEIGHT + GAP)


def _edge(pair: tuple[int, int], lane: int | None) -> str:
    """One edge: straight down to the next box, or around the boxes between."""
    start, end = pair
    if lane is None:
        x = MARGIN + BOX_WIDTH // 2
        return f'<path class="e" d="M{x} {_top(start) + BOX_HEIGHT}V{_top(end)}"/>'
    left = MARGIN + BOX_WIDTH
    return f'<path class="e" d="M{left} {_top(start) + BOX_HEIGHT - 8}H{left + LANE * (lane + 2)}V{_top(end) + 8}H{left}"/>'


def _colours(graph: ModelGraph) -> dict[str, str]:
    """A colour for each group: far apart for neighbours, grey for frozen ones."""
    return {group.name: "#d5d9df" if group.frozen else f"hsl({number * GOLDEN_ANGLE % 360:.0f} 70% 82%)" for number, group in enumerate(graph.groups)}


def _draw(box: Box, number: int, graph: ModelGraph, owner: dict[str, str], colours: dict[str, str]) -> str:
    """One box: name, and below it operations, output shape, share of MACs, groups."""
    groups = list(dict.fromkeys(owner[node.module] for node in box.nodes if node.module in owner))
    fill = colours[groups[0]] if groups else "#f3f5f8"
    frozen = {group.name: group.frozen for group in graph.groups}
    shapes = box.nodes[-1].output_shapes
    share = sum(node.macs for node in box.nodes) / max(graph.macs, 1)
    operations = list(dict.fromkeys(node.op for node in box.nodes))
    details = [" ".join(operations) if len(operations) <= 4 else f"{len(box.nodes)} operations", "x".join(map(str, shapes[0][1:])) if shapes else ""]
    details += [f"{share:.1%} of MACs" if share else "", f"{len(groups)} groups" if len(groups) > 1 else "".join(groups) and f"group {groups[0]}"]
    tip = "; ".join(f"{name}: {frozen[name] or 'units may go'}" for name in groups)
    x, y = MARGIN, _top(number)
    detail = " | ".join(text for text in details if text)
    return (
        f"<g><title>{escape(box.key)}{escape(f' ({tip})' if tip else '')}</title>"
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="#aab3c0"/>'
        f'<text class="n" x="{x + 10}" y="{y + 16}">{escape(_fit(box.key, NAME_CHARACTERS))}</text>'
        f'<text class="d" x="{x + 10}" y="{y + 31}">{escape(_fit(detail, DETAIL_CHARACTERS))}</text></g>'
    )


def _fit(text: str, characters: int) -> str:
    """`text`, its middle left out where it is longer than `characters`."""
    if len(text) <= characters:
        return text
    half = (characters - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
