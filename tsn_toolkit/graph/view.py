"""The graph as a networkx multigraph, with the checks that order and topology allow."""

from __future__ import annotations

from dataclasses import asdict

import networkx as nx

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import GraphError


def to_networkx(graph: ModelGraph) -> nx.MultiDiGraph:
    """Nodes in execution order with their record's fields as attributes; one edge per use, keyed by input position (x + x is two edges).

    Raises:
        GraphError: if an edge names an unknown node or runs against the execution order.
    """
    view = nx.MultiDiGraph()
    position: dict[str, int] = {}
    for node in graph.nodes:
        position[node.name] = len(position)
        view.add_node(node.name, **{key: value for key, value in asdict(node).items() if key != "name"})
    for source, destination, slot in graph.edges:
        if source not in position or destination not in position:
            raise GraphError(f"Edge `{source}` -> `{destination}` names an unknown node. Trace the model again.")
        if position[source] >= position[destination]:
            raise GraphError(f"Edge `{source}` -> `{destination}` runs against the execution order. Trace the model again.")
        view.add_edge(source, destination, key=slot)
    return view
