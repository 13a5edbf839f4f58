"""What every operation of an exported graph does to the units of its inputs.

The rules stand in `product_rules.py`, `norm_rules.py`, `shape_rules.py` and `join_rules.py`. A rule takes the couplings and a call and gives the unit
map of the output (or one per output). An operation without a rule lets no unit through: all units that reach it stay. So a missing rule costs
reduction, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tsn_toolkit.graph.couplings import Couplings
from tsn_toolkit.graph.unit_map import Atoms, UnitMap, first_along

Maps = UnitMap | list[UnitMap]


@dataclass(frozen=True)
class Call:
    """One operation.

    Attributes:
        op: its name, for example `conv2d`.
        values: argument name -> value, defaults filled in; tensors are unit maps.
        shapes: of its outputs.
        module: path of the module that ran it.
        pointwise: whether it works entry by entry.
    """

    op: str
    values: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    module: str
    pointwise: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0]

    @property
    def maps(self) -> list[UnitMap]:
        """All tensor arguments in order, those in lists included."""
        found: list[UnitMap] = []
        for value in self.values.values():
            found += [item for item in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(item, UnitMap)]
        return found

    def dim(self, name: str = "dim") -> int:
        """A dimension argument, counted from the front of the first tensor."""
        return int(self.values[name]) % max(len(self.maps[0].shape), 1)


Rule = Callable[[Couplings, Call], Maps]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


POINTWISE = frozenset(
    (
        "add sub rsub mul div pow relu relu6 selu celu elu gelu silu mish hardtanh hardswish hardsigmoid leaky_relu rrelu sigmoid tanh softplus "
        "softsign log_sigmoid clamp exp sqrt rsqrt neg abs square log masked_fill where lerp addcmul addcdiv copy threshold erf true_divide multiply "
        "subtract divide"
    ).split()
)
"""Operations that work entry by entry but do not all carry torch's tag for it."""


def apply_rule(book: Couplings, call: Call) -> Maps:
    """The unit maps of a call's outputs."""
    if call.op in RULES:
        return RULES[call.op](book, call)
    if call.pointwise or call.op in POINTWISE:
        return book.combine(call.maps, call.shape)
    for item in call.maps:
        for factor in item.factors:
            book.freeze(factor, f"`{call.op}` is an operation whose units cannot be followed")
    maps = [UnitMap(shape) for shape in call.shapes]
    return maps if len(maps) > 1 else (maps[0] if maps else UnitMap(()))


@rule("dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "detach", "alias", "lift_fresh_copy", "type_as", "zeros_like")
def _same(book: Couplings, call: Call) -> UnitMap:
    source = call.maps[0]
    return UnitMap(call.shape, source.factors, source.parameter)


@rule("ones_like", "full_like", "rand_like", "randn_like", "bernoulli")
def _like(book: Couplings, call: Call) -> UnitMap:
    return UnitMap(call.shape, call.maps[0].factors)


@rule("prelu")
def _prelu(book: Couplings, call: Call) -> UnitMap:
    x, weight = call.maps
    return book.combine([x, on_channels(weight, len(x.shape))], call.shape)


def let_nothing_through(book: Couplings, call: Call, text: str) -> UnitMap:
    """Nothing comes through."""
    for item in call.maps:
        for factor in item.factors:
            book.freeze(factor, text)
    return UnitMap(call.shape)


def fix_positions(book: Couplings, x: UnitMap, first: int, text: str) -> None:
    """Units may not differ along the dimensions from `first` on."""
    for factor in x.factors:
        book.fix_along(factor, range(first, len(x.shape)), text)


def channel_atoms(book: Couplings, x: UnitMap) -> Atoms | None:
    """The atoms of the channels of (n, C, ...), or None when the channels belong to no unit."""
    found = x.covering([1])
    if not found:
        return None
    return first_along(found[0], [dim for dim in range(len(x.shape)) if dim != 1]).reshape(-1)


def on_channels(vector: UnitMap, ndim: int) -> UnitMap:
    """A vector over the channels, as (1, C, 1, ...)."""
    shape = (1, *vector.shape) + (1,) * (ndim - 2) if ndim > 1 else vector.shape
    return vector.each(lambda factor: factor.reshape(shape), shape)
