"""Rules of products: linear layers, convolutions, matrix products, attention, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tsn_toolkit.graph.couplings import Couplings
from tsn_toolkit.graph.rules import Call, channel_atoms, fix_positions, let_nothing_through, on_channels, rule
from tsn_toolkit.graph.unit_map import Atoms, UnitMap


@rule("linear")
def _linear(book: Couplings, call: Call) -> UnitMap:
    x, weight, bias = call.values["input"], call.values["weight"], call.values["bias"]
    return _with_bias(book, _matmul(book, x, weight.permuted([1, 0])), bias)


@rule("matmul", "mm", "bmm", "mv", "dot")
def _product(book: Couplings, call: Call) -> UnitMap:
    one, other = call.maps
    return _matmul(book, one, other)


@rule("addmm", "baddbmm")
def _biased_product(book: Couplings, call: Call) -> UnitMap:
    bias, one, other = call.maps
    return _with_bias(book, _matmul(book, one, other), bias)


def _with_bias(book: Couplings, product: UnitMap, bias: UnitMap | None) -> UnitMap:
    return product if bias is None else book.combine([product, bias], product.shape)


def _matmul(book: Couplings, one: UnitMap, other: UnitMap) -> UnitMap:
    """(..., M, K) x (..., K, N); vectors as torch.matmul takes them."""
    row, column = len(one.shape) == 1, len(other.shape) == 1
    if row:
        one = one.aligned(2)
    if column:
        other = other.each(lambda factor: factor[:, None], (*other.shape, 1))
    ndim = max(len(one.shape), len(other.shape))
    one, other = one.aligned(ndim), other.aligned(ndim)
    batch = np.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    left = one.each(lambda factor: factor[..., None], (*one.shape, 1))
    right = other.each(lambda factor: factor[..., None, :, :], (*other.shape[:-2], 1, *other.shape[-2:]))
    product = book.combine([left, right], (*batch, one.shape[-2], one.shape[-1], other.shape[-1]))
    book.multiply(prod(product.shape), *product.factors)
    result = _contracted(book, product, ndim - 1)
    if column:
        result = result.taken(len(result.shape) - 1, 0)
    if row:
        result = result.taken(len(result.shape) - (1 if column else 2), 0)
    return result


def _contracted(book: Couplings, product: UnitMap, dim: int) -> UnitMap:
    """A sum over one dimension: units along it end here; what also has other dimensions goes as a whole."""
    for factor in product.covering([dim]):
        if sum(length > 1 for length in factor.shape) > 1:
            book.join_along(factor, dim)
    return product.taken(dim, 0)


@rule("einsum")
def _einsum(book: Couplings, call: Call) -> UnitMap:
    equation = call.values["equation"].replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or "->" not in equation or any(len(set(term)) != len(term) for term in terms):
        return let_nothing_through(book, call, "this einsum cannot be followed")
    letters = list(right) + sorted(set(left) - set(right) - {","})
    sizes = {letter: length for term, item in zip(terms, call.maps) for letter, length in zip(term, item.shape)}
    spread = [_spread(item, term, letters) for term, item in zip(terms, call.maps)]
    product = book.combine(spread, [sizes[letter] for letter in letters])
    book.multiply(prod(product.shape), *product.factors)
    while len(product.shape) > len(right):
        product = _contracted(book, product, len(product.shape) - 1)
    return product


def _spread(item: UnitMap, term: str, letters: Sequence[str]) -> UnitMap:
    """An einsum operand over all letters."""
    order = [term.index(letter) for letter in letters if letter in term]
    item = item.permuted(order)
    where = [index for index, letter in enumerate(letters) if letter in term]

    def place(shape: Sequence[int]) -> tuple[int, ...]:
        full = [1] * len(letters)
        for index, length in zip(where, shape):
            full[index] = length
        return tuple(full)

    return item.each(lambda factor: factor.reshape(place(factor.shape)), place(item.shape))


@rule("scaled_dot_product_attention")
def _attention(book: Couplings, call: Call) -> UnitMap:
    """Attention with whole heads as units: the default scale counts the channels of query and key, so they go together or not at all."""
    query, key, value, mask = (call.values[name] for name in ("query", "key", "value", "attn_mask"))
    for item in (query, key):
        for factor in item.covering([len(item.shape) - 1]):
            book.join_along(factor, len(item.shape) - 1)
    if call.values.get("enable_gqa"):
        key, value = (_repeated_heads(item, query.shape[-3]) for item in (key, value))
    last = len(key.shape) - 1
    scores = _matmul(book, query, key.permuted([*range(last - 1), last, last - 1]))
    if mask is not None:
        scores = book.combine([scores, mask], scores.shape)
    for factor in scores.factors:
        book.fix_along(factor, [len(scores.shape) - 1], "attention runs over them")
    return _matmul(book, scores, value)


def _repeated_heads(item: UnitMap, heads: int) -> UnitMap:
    """Key or value heads, each repeated for its query heads."""
    dim, times = len(item.shape) - 3, heads // item.shape[-3]
    shape = (*item.shape[:dim], heads, *item.shape[dim + 1 :])
    return item.each(lambda factor: np.repeat(factor, times, axis=dim) if factor.shape[dim] > 1 else factor, shape)


@rule("conv1d", "conv2d", "conv3d")
def _conv(book: Couplings, call: Call) -> UnitMap:
    x, weight, bias, groups = (call.values[name] for name in ("input", "weight", "bias", "groups"))
    x = _unbatched(x, len(weight.shape))
    fix_positions(book, x, 2, "a convolution runs over them")
    rows, columns = _vector(weight, 0), _vector(weight, 1)
    if groups > 1 and weight.shape[1] == 1:
        rows = _depthwise(book, x, weight.shape[0], rows)
    else:
        _read_channels(book, x, columns, groups)
        if groups > 1:
            _join_groups(book, rows, groups)
    return _channels(book, call.shape, rows, bias)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transposed(book: Couplings, call: Call) -> UnitMap:
    x, weight, bias, groups = (call.values[name] for name in ("input", "weight", "bias", "groups"))
    x = _unbatched(x, len(weight.shape))
    fix_positions(book, x, 2, "a convolution runs over them")
    columns, rows = _vector(weight, 0), _vector(weight, 1)
    book.multiply(prod(x.shape) // weight.shape[0] * prod(weight.shape), columns, rows)
    _read_channels(book, x, columns, 1)
    if groups == 1:
        return _channels(book, call.shape, rows, bias)
    if weight.shape[1] == 1:
        return _channels(book, call.shape, columns, bias)
    if columns is not None:
        _join_groups(book, columns, groups)
    return _channels(book, call.shape, np.tile(rows, groups) if rows is not None else None, bias)


def _unbatched(x: UnitMap, ndim: int) -> UnitMap:
    """With a batch dimension, which layers for images may leave out."""
    return x.aligned(ndim)


def _vector(item: UnitMap, dim: int) -> Atoms | None:
    """The atoms along one dimension of a weight, or None where it has length 1."""
    found = item.covering([dim])
    return found[0].reshape(-1) if found else None


def _read_channels(book: Couplings, x: UnitMap, columns: Atoms | None, groups: int) -> None:
    """Channels of the input and input columns of the weight, of which every group reads its part."""
    channels = channel_atoms(book, x)
    if columns is None:
        if channels is not None:
            book.freeze(channels, "a convolution with one input channel per group reads them")
    elif channels is None:
        book.freeze(columns, "its inputs are no units")
    else:
        book.join(channels.reshape(groups, -1), columns.reshape(1, -1))


def _depthwise(book: Couplings, x: UnitMap, outputs: int, rows: Atoms | None) -> Atoms | None:
    """Rows of a depthwise weight, each a unit with the channel that it reads."""
    channels = channel_atoms(book, x)
    if rows is None or channels is None:
        if rows is not None:
            book.freeze(rows, "its inputs are no units")
        return rows
    book.join(np.repeat(channels, outputs // len(channels)), rows)
    return rows


def _join_groups(book: Couplings, rows: Atoms | None, groups: int) -> None:
    """Groups stay equal only if the same position goes in every group."""
    if rows is not None:
        book.join_along(rows.reshape(groups, -1), 0)


def _channels(book: Couplings, shape: tuple[int, ...], rows: Atoms | None, bias: UnitMap | None) -> UnitMap:
    """An output (n, C, ...) whose channels are `rows`."""
    dim = len(shape) - 1 if len(shape) == 1 else 1
    full = tuple(shape[dim] if other == dim else 1 for other in range(len(shape)))
    factors = (rows.reshape(full),) if rows is not None and rows.size > 1 else ()
    result = UnitMap(shape, factors)
    return result if bias is None else book.combine([result, on_channels(bias, len(shape))], shape)


@rule("embedding")
def _embedding(book: Couplings, call: Call) -> UnitMap:
    weight, ids = call.values["weight"], call.values["indices"]
    for factor in (*weight.covering([0]), *ids.factors):
        book.freeze(factor, "its rows are looked up by value")
    return UnitMap(call.shape, weight.taken(0, 0).aligned(len(call.shape)).factors)
