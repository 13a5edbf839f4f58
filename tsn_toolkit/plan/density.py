"""One density for a model becomes densities of its layers.

`erk`: the density of a layer is proportional to (n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w), at most 1 (Erdos-Renyi-kernel; Evci et al., ICML
2020), so that small layers, which have few slots to spare, stay denser. The numbers of slots add up to the budget exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

from tsn_toolkit.contracts import LayerPlan
from tsn_toolkit.errors import PlanError
from tsn_toolkit.masks.granularity import parse_granularity
from tsn_toolkit.masks.top import keep_count
from tsn_toolkit.vocabulary import Encoding

Shapes = Mapping[str, tuple[int, ...]]


def own_density(encoding: Encoding, granularity: str) -> float | None:
    """The density that an encoding or granularity fixes; None where it is free to choose (or, `shared`, means nothing)."""
    if encoding == "codes":
        return parse_granularity(granularity).density
    return 1.0 if encoding == "planes" else None


def density_problem(encoding: Encoding, granularity: str, density: float, where: str) -> str:
    """Why a layer cannot have this density, or ""."""
    fixed = own_density(encoding, granularity)
    if fixed is None or abs(density - fixed) < 1e-9:
        return ""
    what = "encoding planes" if encoding == "planes" else f"granularity {granularity}"
    return f"`density` of {where} must be {fixed:g}, which {what} fixes, got {density:g}"


def divide_by_shape(layers: Sequence[LayerPlan], shapes: Shapes, density: float, given: Collection[str]) -> tuple[LayerPlan, ...]:
    """Gives the `codes` layers the densities with which they keep, all together, `density` of their slots.

    Args:
        layers: of the plan; those of another encoding take no part.
        shapes: layer name -> shape of its weight inside the kept units.
        density: of all `codes` layers together.
        given: layers whose density is not free; they count towards the budget.

    Raises:
        PlanError: the layers whose density is given leave too little or too much for the others, or there are no others.
    """
    coded = [layer for layer in layers if layer.encoding == "codes"]
    free = {layer.name: shapes[layer.name] for layer in coded if layer.name not in given}
    sizes = {layer.name: prod(shapes[layer.name]) for layer in coded}
    total = keep_count(density, sum(sizes.values()))
    taken = sum(keep_count(layer.density, sizes[layer.name]) for layer in coded if layer.name not in free)
    room = sum(sizes[name] for name in free)
    if coded and not len(free) <= total - taken <= room:
        raise PlanError(
            f"`density` {density:g} cannot be reached: {total} slots in all, of which the layers whose density is given "
            f"({', '.join(layer.name for layer in coded if layer.name not in free) or 'none'}) take {taken}, and the others "
            f"({', '.join(free) or 'none'}) need {len(free)} to {room}. Change `density`, the given densities, or set `density_by_layer: uniform`."
        )
    counts = _counts(free, total - taken) if free else {}
    return tuple(replace(layer, density=_shortest(counts[layer.name], sizes[layer.name])) if layer.name in counts else layer for layer in layers)


def _counts(shapes: Shapes, total: int) -> dict[str, int]:
    """Slots per layer, at least 1 and at most all, that add up to `total`: rounded down, then up where the remainder is largest."""
    wanted = _proportions(shapes, total)
    counts = {name: max(1, int(slots)) for name, slots in wanted.items()}
    order = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    missing = total - sum(counts.values())
    while missing:
        for name in order if missing > 0 else reversed(order):
            step = 1 if missing > 0 else -1
            if missing and 1 <= counts[name] + step <= prod(shapes[name]):
                counts[name] += step
                missing -= step
    return counts


def _proportions(shapes: Shapes, total: int) -> dict[str, float]:
    """Slots per layer, not rounded: factor * sum(shape), no more than the layer has."""
    full: set[str] = set()
    while True:
        rest = total - sum(prod(shapes[name]) for name in full)
        factor = rest / max(1, sum(sum(shapes[name]) for name in shapes if name not in full))
        more = {name for name in shapes if name not in full and factor * sum(shapes[name]) > prod(shapes[name])}
        if not more:
            return {name: float(prod(shapes[name])) if name in full else factor * sum(shapes[name]) for name in shapes}
        full |= more


def _shortest(count: int, size: int) -> float:
    """The shortest decimal fraction that keeps `count` of `size` slots."""
    return next(value for digits in range(1, 18) if 0 < (value := round(count / size, digits)) <= 1 and keep_count(value, size) == count)
