"""The analyzer: trace a model, find what can go, remove it, prove it."""

from tsn_toolkit.graph.cost import parameter_bytes, peak_activation_bytes
from tsn_toolkit.graph.fingerprint import fingerprint
from tsn_toolkit.graph.listing import graph_json, graph_table
from tsn_toolkit.graph.picture import graph_svg
from tsn_toolkit.graph.proof import prove_equal
from tsn_toolkit.graph.rebuild import plan_of, rebuild
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.graph.units import kept_entries, mask_units_
from tsn_toolkit.graph.view import to_networkx

__all__ = [
    "fingerprint",
    "graph_json",
    "graph_svg",
    "graph_table",
    "kept_entries",
    "mask_units_",
    "parameter_bytes",
    "plan_of",
    "peak_activation_bytes",
    "prove_equal",
    "rebuild",
    "shrink",
    "to_networkx",
    "trace",
]
