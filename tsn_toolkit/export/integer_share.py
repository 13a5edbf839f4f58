"""Which share of the multiply-accumulates a runtime puts into integer kernels: the value, and what all profiles have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tsn_toolkit.errors import GateError


@dataclass(frozen=True)
class IntegerShare:
    """What the profile of one run says.

    Attributes:
        share: MACs in integer kernels / all MACs, in [0, 1].
        integer_macs, macs: of one example.
        operations: operation -> number of nodes the runtime executed.
        stays_float: `operation node` of everything that computes in float.
    """

    share: float
    integer_macs: int
    macs: int
    operations: Mapping[str, int]
    stays_float: tuple[str, ...]


def layer_of(name: str, weight_shapes: Mapping[str, list[int]]) -> str:
    """The layer a node belongs to: runtimes keep node names and may append `_token_N`, `_nchwc` and the like.

    Args:
        name: of a node, `<layer>::weight` and whatever the runtime appended.
        weight_shapes: layer -> shape of its weight.

    Raises:
        GateError: the name holds no layer of `weight_shapes`.
    """
    layer, mark, _ = name.partition("::weight")
    if not mark or layer not in weight_shapes:
        raise GateError(f"Node `{name}` of the runtime's profile belongs to none of the layers {sorted(weight_shapes)}.")
    return layer
