"""The picture: well-formed, complete, no overlapping boxes, collapsed when large."""

import xml.etree.ElementTree as ET

import torch
from torch import nn

from tsn_toolkit.graph import graph_json, graph_svg, graph_table, trace
from tsn_toolkit.graph.picture import BOX_WIDTH, MAX_BOXES, collapse
from tsn_toolkit.models.resnet_cifar import resnet

SVG = "{http://www.w3.org/2000/svg}"
GRAPH = []


def resnet_graph():
    if not GRAPH:
        GRAPH.append(trace(resnet(20), torch.zeros(1, 3, 32, 32)))
    return GRAPH[0]


def check_layout(svg):
    root = ET.fromstring(svg)
    boxes = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
    tops = [float(box.get("y")) for box in boxes]
    assert all(b - a >= float(boxes[0].get("height")) for a, b in zip(tops, tops[1:]))
    for text in root.iter(f"{SVG}text"):
        assert len(text.text) * (7.3 if text.get("class") == "n" else 5.6) < BOX_WIDTH
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    return boxes


def test_resnet_shows_every_layer():
    graph = resnet_graph()
    svg = graph_svg(graph)
    check_layout(svg)
    for layer in graph.layers:
        assert f">{layer.name}<" in svg
    assert svg == graph_svg(graph)


def test_large_graphs_are_collapsed():
    block = lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))  # noqa: E731
    nested = trace(nn.Sequential(*(nn.Sequential(*(block() for _ in range(4))) for _ in range(15)), nn.Linear(4, 2)), torch.zeros(1, 4))
    flat = trace(nn.Sequential(*(nn.Linear(4, 4) for _ in range(150)), nn.Linear(4, 2)), torch.zeros(1, 4))
    for graph in (nested, flat):
        boxes = collapse(graph)
        assert len(boxes) <= MAX_BOXES
        assert [node for box in boxes for node in box.nodes] == list(graph.nodes)
        assert len(check_layout(graph_svg(graph))) == len(boxes)


def test_table_and_json():
    graph = resnet_graph()
    table, data = graph_table(graph), graph_json(graph)
    assert f"{graph.macs:,}" in table and "layer3.2.conv2" in table and "head linear" in table
    assert data["macs"] == graph.macs == data["macs_in_unfrozen_groups"]
    assert len(data["layers"]) == 23 and data["groups"][0]["members"][0] == ["bn1.bias", 0]
