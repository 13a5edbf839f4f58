"""Rules of norms, reductions, poolings, and operations that run over a dimension."""

from __future__ import annotations

from tsn_toolkit.graph.couplings import Couplings
from tsn_toolkit.graph.rules import Call, Maps, channel_atoms, fix_positions, on_channels, rule
from tsn_toolkit.graph.unit_map import UnitMap, first_along


@rule("batch_norm")
def _batch_norm(book: Couplings, call: Call) -> UnitMap:
    x = call.values["input"]
    vectors = [call.values[name] for name in ("weight", "bias", "running_mean", "running_var")]
    if call.values.get("running_mean") is None:
        fix_positions(book, x, 2, "a norm takes its statistics over them")
    return book.combine([x, *(on_channels(vector, len(x.shape)) for vector in vectors if vector is not None)], call.shape)


@rule("instance_norm")
def _instance_norm(book: Couplings, call: Call) -> Maps:
    fix_positions(book, call.values["input"], 2, "instance_norm takes its statistics over them")
    return _batch_norm(book, call)


@rule("group_norm")
def _group_norm(book: Couplings, call: Call) -> UnitMap:
    """A unit is a whole group of the norm: its statistics belong to all channels of the group."""
    x, groups, weight, bias = (call.values[name] for name in ("input", "num_groups", "weight", "bias"))
    fix_positions(book, x, 2, "group_norm takes its statistics over them")
    result = book.combine([x, *(on_channels(vector, len(x.shape)) for vector in (weight, bias) if vector is not None)], call.shape)
    channels = channel_atoms(book, result)
    if channels is not None:
        grid = channels.reshape(groups, -1)
        if groups == 1:
            book.fix_along(grid, [1], "group_norm with one group normalises them over one another, so that removing one changes the others")
        else:
            book.join_along(grid, 1)
            book.count(call.module, groups, grid, 0)
    return result


@rule("layer_norm", "rms_norm")
def _layer_norm(book: Couplings, call: Call) -> UnitMap:
    x, shape = call.values["input"], call.values["normalized_shape"]
    dims = range(len(x.shape) - len(shape), len(x.shape))
    for factor in x.factors:
        book.fix_along(factor, dims, f"{call.op} normalises them over one another, so that removing one changes the others")
    vectors = [call.values[name] for name in ("weight", "bias") if call.values.get(name) is not None]
    return book.combine([x, *vectors], call.shape)


# -------------------------------------------------------------------------------------------- dimensions that are run over or reduced


@rule("softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "argsort")
def _along(book: Couplings, call: Call) -> Maps:
    x = call.maps[0]
    for factor in x.factors:
        book.fix_along(factor, [call.dim()], f"{call.op} runs over them")
    maps = [UnitMap(shape, x.factors) for shape in call.shapes]
    return maps if len(maps) > 1 else maps[0]


@rule("roll", "flip")
def _moved(book: Couplings, call: Call) -> UnitMap:
    x, dims = call.maps[0], list(call.values["dims"]) or list(range(len(call.maps[0].shape)))
    for factor in x.factors:
        book.fix_along(factor, [dim % len(x.shape) for dim in dims], f"{call.op} moves them")
    return UnitMap(call.shape, x.factors)


@rule("sum", "mean", "amax", "amin", "var", "std", "max", "min", "logsumexp", "linalg_vector_norm", "norm", "any", "all", "argmax", "argmin", "prod")
def _reduced(book: Couplings, call: Call) -> Maps:
    x, keep = call.maps[0], bool(call.values.get("keepdim", False))
    if len(call.maps) > 1:
        return book.combine(call.maps, call.shape)  # max and min of two tensors
    given = call.values.get("dim")
    dims = sorted(dim % len(x.shape) for dim in ([given] if isinstance(given, int) else given or range(len(x.shape))))
    for factor in x.covering(dims):
        if call.op != "sum" or sum(length > 1 for length in factor.shape) > 1:
            book.fix_along(factor, dims, f"{call.op} is taken over them, so that removing one changes the others")
    result = x.each(lambda factor: first_along(factor, dims, keep=keep), call.shape)
    return [result] * len(call.shapes) if len(call.shapes) > 1 else result


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices",
    "max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "upsample_nearest_exact2d", "upsample_nearest_exact1d",
)  # fmt: skip
def _spatial(book: Couplings, call: Call) -> Maps:
    x = call.maps[0]
    spatial = int(next(character for character in call.op.split("_with")[0][::-1] if character.isdigit()))
    fix_positions(book, x, len(x.shape) - spatial, f"{call.op} runs over them")
    factors = tuple(first_along(factor, range(len(x.shape) - spatial, len(x.shape))) for factor in x.factors)
    maps = [UnitMap(shape, tuple(factor for factor in factors if factor.size > 1)) for shape in call.shapes]
    return maps if len(maps) > 1 else maps[0]
