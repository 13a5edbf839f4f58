"""Rules of operations that move, cut or repeat entries."""

from __future__ import annotations

import numpy as np
import torch

from tsn_toolkit.graph.couplings import Couplings
from tsn_toolkit.graph.rules import Call, fix_positions, let_nothing_through, rule
from tsn_toolkit.graph.unit_map import STAYS, Atoms, UnitMap, first_along, reshaped


@rule("view", "reshape", "unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel")
def _reshape(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0]
    factors: list[Atoms] = []
    for factor in x.factors:
        new = reshaped(factor, x.shape, call.shape)
        if any(a > 1 and b > 1 for other in factors for a, b in zip(other.shape, new.shape)):
            book.freeze(factor, f"`{call.op}` merges them with other units")
            continue
        book.keep_grid(new)
        _count(book, call, new)
        factors.append(new)
    return UnitMap(call.shape, tuple(factor for factor in factors if factor.size > 1), x.parameter)


def _count(book: Couplings, call: Call, factor: Atoms) -> None:
    """Note the lengths of an output's dimensions: a number of the module may be one of them."""
    for dim, length in enumerate(factor.shape):
        if length > 1:
            book.count(call.module, length, factor, dim)


@rule("permute")
def _permute(book: Couplings, call: Call) -> UnitMap:
    return call.maps[0].permuted(call.values["dims"])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0]
    order = list(range(len(x.shape)))
    one, other = (int(value) for value in list(call.values.values())[1:3])
    order[one], order[other] = order[other], order[one]
    return x.permuted(order)


@rule("t", "numpy_T", "mT", "adjoint")
def _turned(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0]
    return x.permuted([*range(len(x.shape) - 2), *range(len(x.shape) - 1, max(len(x.shape) - 3, -1), -1)]) if len(x.shape) > 1 else x


@rule("movedim")
def _movedim(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0]
    shape = np.arange(len(x.shape))
    order = torch.movedim(torch.empty(tuple(shape + 2), device="meta"), call.values["source"], call.values["destination"]).shape
    return x.permuted([int(length) - 2 for length in order])


@rule("expand", "broadcast_to", "expand_as")
def _expand(book: Couplings, call: Call) -> UnitMap:
    result = call.maps[0].aligned(len(call.shape))
    result = UnitMap(call.shape, result.factors, result.parameter)
    for factor in result.factors:
        _count(book, call, factor)
    return result


@rule("repeat_interleave")
def _repeat_interleave(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0]
    if not isinstance(call.values.get("repeats"), int) or call.values.get("dim") is None:
        return let_nothing_through(book, call, "`repeat_interleave` with a tensor cannot be followed")
    dim = call.dim()
    return x.each(lambda factor: np.repeat(factor, call.values["repeats"], axis=dim) if factor.shape[dim] > 1 else factor, call.shape)


@rule("repeat", "tile")
def _repeat(book: Couplings, call: Call) -> UnitMap:
    x = call.maps[0].aligned(len(call.shape))
    times = [new // old for new, old in zip(call.shape, x.shape)]
    return x.each(lambda factor: np.tile(factor, [t if length > 1 else 1 for t, length in zip(times, factor.shape)]), call.shape)


@rule("select")
def _select(book: Couplings, call: Call) -> UnitMap:
    x, dim = call.maps[0], call.dim()
    for factor in x.covering([dim]):
        book.fix_along(factor, [dim], "one of them is selected by its index")
    return x.taken(dim, int(call.values["index"]) % x.shape[dim])


@rule("slice")
def _slice(book: Couplings, call: Call) -> UnitMap:
    x, dim = call.maps[0], call.dim()
    start, end = (call.values.get(name) for name in ("start", "end"))
    part = slice(start, end, call.values.get("step") or 1)
    entries = range(x.shape[dim])[part]
    if len(entries) == x.shape[dim]:
        return x
    equal_parts = len(entries) > 0 and x.shape[dim] % len(entries) == 0 and entries[0] % len(entries) == 0 and entries.step == 1
    for factor in x.covering([dim]):
        if equal_parts and x.shape[dim] // len(entries) <= 8:
            _keep_parts(book, factor, dim, x.shape[dim] // len(entries))
        else:
            book.fix_along(factor, [dim], "some of them are selected by their indices")
    return x.taken(dim, part)


def _keep_parts(book: Couplings, factor: Atoms, dim: int, parts: int) -> None:
    """Equal parts of a dimension keep the same number of entries."""
    if factor.shape[dim] == 1:
        return
    grid = factor.reshape(*factor.shape[:dim], parts, -1, *factor.shape[dim + 1 :])
    book.keep_grid(grid)


@rule("chunk", "split", "split_with_sizes")
def _split(book: Couplings, call: Call) -> list[UnitMap]:
    x, dim = call.maps[0], call.dim()
    lengths = [shape[dim] for shape in call.shapes]
    parts, start = [], 0
    for length in lengths:
        parts.append(x.taken(dim, slice(start, start + length)))
        start += length
    for factor in x.covering([dim]):
        if len(set(lengths)) == 1:
            _keep_parts(book, factor, dim, len(lengths))
        elif not isinstance(call.values.get("split_sizes", call.values.get("split_size")), list):
            book.fix_along(factor, [dim], f"`{call.op}` cuts them into unequal parts")
    if call.op != "chunk":
        for part in parts:
            for factor in part.covering([dim]):
                book.count(call.module, part.shape[dim], factor, dim)
    return parts


@rule("unbind")
def _unbind(book: Couplings, call: Call) -> list[UnitMap]:
    x, dim = call.maps[0], call.dim()
    for factor in x.covering([dim]):
        book.fix_along(factor, [dim], "`unbind` tells them apart by their indices")
    return [x.taken(dim, index) for index in range(x.shape[dim])]


@rule("glu")
def _glu(book: Couplings, call: Call) -> UnitMap:
    x, dim = call.maps[0], call.dim()
    half = x.shape[dim] // 2
    for factor in x.covering([dim]):
        _keep_parts(book, factor, dim, 2)
    return book.combine([x.taken(dim, slice(0, half)), x.taken(dim, slice(half, 2 * half))], call.shape)


@rule("pixel_shuffle")
def _pixel_shuffle(book: Couplings, call: Call) -> UnitMap:
    """(..., C r^2, h, w) -> (..., C, h r, w r): the r^2 channels of an output channel go together."""
    x, dim = call.maps[0], len(call.shape) - 3
    fix_positions(book, x, dim + 1, "pixel_shuffle moves them")
    for factor in x.covering([dim]):
        grid = factor.reshape(*factor.shape[:dim], call.shape[dim], -1, *factor.shape[dim + 1 :])
        book.join_along(grid, dim + 1)
    step = x.shape[dim] // call.shape[dim]
    return x.each(lambda factor: factor[(slice(None),) * dim + (slice(None, None, step),)] if factor.shape[dim] > 1 else factor, call.shape)


@rule("pixel_unshuffle")
def _pixel_unshuffle(book: Couplings, call: Call) -> UnitMap:
    x, dim = call.maps[0], len(call.shape) - 3
    fix_positions(book, x, dim + 1, "pixel_unshuffle moves them")
    times = call.shape[dim] // x.shape[dim]
    return x.each(lambda factor: np.repeat(factor, times, axis=dim) if factor.shape[dim] > 1 else factor, call.shape)


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad(book: Couplings, call: Call) -> UnitMap:
    x, pads = call.maps[0], list(call.values.get("pad") or call.values["padding"])
    widths = [(0, 0)] * (len(x.shape) - len(pads) // 2) + [(pads[i], pads[i + 1]) for i in range(len(pads) - 2, -1, -2)]
    constant = call.values.get("mode", "constant") == "constant" and "pad" in call.values
    for dim, width in enumerate(widths):
        for factor in x.covering([dim]):
            if width != (0, 0) and (not constant or min(width) < 0):
                book.fix_along(factor, [dim], f"{call.op} copies or cuts them")
    if any(min(width) < 0 for width in widths) or not constant:
        return x.each(lambda factor: first_along(factor, [dim for dim, width in enumerate(widths) if width != (0, 0)]), call.shape)
    return x.each(
        lambda factor: np.pad(factor, [w if length > 1 else (0, 0) for w, length in zip(widths, factor.shape)], constant_values=STAYS), call.shape
    )
