"""Rules of operations that put tensors side by side or look entries up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsn_toolkit.graph.couplings import Couplings
from tsn_toolkit.graph.rules import Call, let_nothing_through, rule
from tsn_toolkit.graph.unit_map import STAYS, Atoms, UnitMap, first_along


@rule("cat", "concat", "concatenate")
def _cat(book: Couplings, call: Call) -> UnitMap:
    return _joined_along(book, [item for item in call.maps if len(item.shape) == len(call.shape)], call.dim(), call.shape)


@rule("stack")
def _stack(book: Couplings, call: Call) -> UnitMap:
    dim = int(call.values["dim"]) % len(call.shape)
    maps = []
    for item in call.maps:
        shape = (*item.shape[:dim], 1, *item.shape[dim:])
        maps.append(item.each(lambda factor: np.expand_dims(factor, dim), shape))
    return _joined_along(book, maps, dim, call.shape)


def _joined_along(book: Couplings, maps: Sequence[UnitMap], dim: int, shape: tuple[int, ...]) -> UnitMap:
    """Tensors side by side along `dim`; along all other dimensions they agree."""
    flat = [item.taken(dim, slice(0, 1)) for item in maps]
    if not any(item.covering([dim]) for item in maps) and all(item.shape[dim] > 1 for item in maps):
        return UnitMap(shape, book.combine(flat, (*shape[:dim], 1, *shape[dim + 1 :])).factors)
    others = {other for item in maps for factor in item.covering([dim]) for other in range(len(shape)) if other != dim and factor.shape[other] > 1}
    pieces = [_piece(book, item, dim, sorted(others)) for item in maps]
    widths = [max(piece.shape[other] for piece in pieces) for other in range(len(shape))]
    wide = [np.broadcast_to(piece, [*widths[:dim], piece.shape[dim], *widths[dim + 1 :]]) for piece in pieces]
    labels = np.concatenate(wide, axis=dim)
    rest = []
    for item in flat:
        rest.append(UnitMap(item.shape, tuple(factor for factor in item.factors if not any(factor.shape[other] > 1 for other in others))))
    apart = book.combine(rest, (*shape[:dim], 1, *shape[dim + 1 :])).factors if any(item.factors for item in rest) else ()
    alone = labels if (labels != STAYS).any() else labels[:0]
    parameter = all(item.parameter for item in maps if item.factors)
    return UnitMap(shape, tuple(factor for factor in (alone, *apart) if factor.size > 1), parameter)


def _piece(book: Couplings, item: UnitMap, dim: int, others: Sequence[int]) -> Atoms:
    """The atoms of one of the tensors along `dim` (and the dimensions that share a factor with it)."""
    found = item.covering([dim]) or item.covering(others)
    ones = [1] * len(item.shape)
    ones[dim] = item.shape[dim]
    if not found:
        return np.full(ones, STAYS, dtype=np.int64)
    factor = found[0]
    shape = [item.shape[d] if d == dim else length for d, length in enumerate(factor.shape)]
    return np.broadcast_to(factor, shape)


@rule("index_select", "gather", "take_along_dim")
def _picked(book: Couplings, call: Call) -> UnitMap:
    x, dim = call.maps[0], call.dim()
    for factor in x.factors:
        book.fix_along(factor, [dim], f"{call.op} picks them by value")
    return x.each(lambda factor: first_along(factor, [dim]), call.shape)


@rule("index")
def _index(book: Couplings, call: Call) -> UnitMap:
    """x[ids] with tensors on neighbouring dimensions."""
    x: UnitMap = call.values["self"]
    indices = call.values["indices"]
    used = [dim for dim, index in enumerate(indices) if index is not None]
    if not used or used != list(range(used[0], used[-1] + 1)):
        return let_nothing_through(book, call, "this indexing cannot be followed")
    for factor in (factor for dim in used for factor in indices[dim].factors):
        book.freeze(factor, "they are used as positions")
    for factor in x.factors:
        book.fix_along(factor, used, "they are looked up by value")
    new = len(call.shape) - (len(x.shape) - len(used))

    def look_up(factor: Atoms) -> Atoms:
        first = first_along(factor, used)
        return first.reshape(*first.shape[: used[0]], *([1] * new), *first.shape[used[-1] + 1 :])

    return x.each(look_up, call.shape)
