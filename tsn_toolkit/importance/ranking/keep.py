"""The best scored units or weights of every pool as masks; of equal scores the earlier layer's, then the lower index stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.importance.ranking.checked import Scores, checked_scores
from tsn_toolkit.importance.ranking.normalise import normalise
from tsn_toolkit.importance.ranking.pools import layer_pools, unit_pools

Masks = dict[str, NDArray[np.bool_]]


def keep_units(
    graph: ModelGraph,
    scores: Scores,
    share: float,
    *,
    scope: str = "global",
    normalisation: str = "none",
    multiple: int = 1,
    min_units: int = 1,
) -> Masks:
    """Group name -> bool mask (size,), True = kept, of every group that may lose units.

    Units of a group go in runs of `multiple`, worst first; a run counts its mean score. A pool keeps the nearest number of units to `share` of it,
    rounded up to whole runs, and never less than the `min_units` of all its groups.

    Args:
        graph: of the model.
        scores: group name -> float64 (size,), larger = kept longer.
        share: of the units of every pool that stays, (0, 1].
        scope: what is ranked together: `global`, `layer` (every group by itself) or `isomorphic`.
        normalisation: of every group's scores before: `none`, `mean` or `l2`.
        multiple: numbers of kept units are multiples of it, or the whole group.
        min_units: units that stay in every group at least, itself rounded up to `multiple`.

    Raises:
        PlanError: if a setting breaks its rule, or scores are missing, have another shape or are not finite.
    """
    _check_share(share)
    for name, value in (("multiple", multiple), ("min_units", min_units)):
        if value < 1:
            raise PlanError(f"`{name}` must be at least 1, got {value}. Give a positive number.")
    pools = unit_pools(graph, scope)
    sizes = {group.name: (group.size,) for group in graph.groups if not group.frozen}
    scaled = normalise(checked_scores(scores, sizes, "group"), normalisation)
    masks: Masks = {}
    for pool in pools:
        masks |= _best_runs({name: scaled[name] for name in pool}, share, multiple, min_units)
    return {name: masks[name] for name in sizes}


def keep_weights(graph: ModelGraph, scores: Scores, share: float, *, scope: str = "global", normalisation: str = "none") -> Masks:
    """Layer name -> bool mask, shape of the weight, True = kept, of every codable layer.

    Every pool keeps exactly the nearest number of weights to `share` of it, and at least one of each layer (scope `row`: of each row).

    Args:
        graph: of the model.
        scores: layer name -> float64, shape of the weight, larger = kept longer.
        share: of the weights of every pool that stays, (0, 1].
        scope: what is ranked together: `global`, `layer`, `isomorphic` or `row` (the weights of one index of the first dimension).
        normalisation: of every layer's scores before: `none`, `mean` or `l2`.

    Raises:
        PlanError: if a setting breaks its rule, or scores are missing, have another shape or are not finite.
    """
    _check_share(share)
    pools = layer_pools(graph, scope)
    shapes = {layer.name: layer.shape for layer in graph.layers}
    if graph.head in scores:  # the scored model may have another number of classes
        shapes[graph.head] = (*np.shape(scores[graph.head])[:1], *shapes[graph.head][1:])
    scaled = normalise(checked_scores(scores, shapes, "layer"), normalisation)
    masks: Masks = {}
    for pool in pools:
        parts = list(scaled[pool[0]].reshape(shapes[pool[0]][0], -1)) if scope == "row" else [scaled[name].ravel() for name in pool]
        kept = [_best_of([part], share)[0] for part in parts] if scope == "row" else _best_of(parts, share)
        flat, ends = np.concatenate(kept), np.cumsum([scaled[name].size for name in pool])
        masks |= {name: part.reshape(shapes[name]) for name, part in zip(pool, np.split(flat, ends[:-1]), strict=True)}
    return {name: masks[name] for name in shapes}


def _best_of(parts: Sequence[NDArray[np.float64]], share: float) -> list[NDArray[np.bool_]]:
    """Masks of the best entries of all parts together, and of the best one of each part whatever its score."""
    scores = np.concatenate(parts)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    scores[[start + int(part.argmax()) for start, part in zip(starts, parts, strict=False)]] = np.inf
    keep = max(len(parts), round(share * len(scores)))
    threshold = np.partition(scores, len(scores) - keep)[len(scores) - keep]
    mask = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    mask[ties[: keep - int(mask.sum())]] = True
    return np.split(mask, starts[1:-1])


def _best_runs(scores: Scores, share: float, multiple: int, min_units: int) -> Masks:
    """Masks of one pool: runs of units in order of their mean score until the share is reached; the first runs of a group stay anyway."""
    runs: list[tuple[float, str, NDArray[np.int64]]] = []
    for name, values in scores.items():
        order = np.argsort(-values, kind="stable")
        for start in range(0, len(order), multiple):
            run = order[start : start + multiple]
            runs.append((np.inf if start < min_units else float(values[run].mean()), name, run))
    wanted = round(share * sum(len(values) for values in scores.values()))
    masks: Masks = {name: np.zeros(len(values), dtype=np.bool_) for name, values in scores.items()}
    kept = 0
    for value, name, run in sorted(runs, key=lambda entry: -entry[0]):  # stable: ties stay in order of groups and indices
        if value == np.inf or kept < wanted:
            masks[name][run] = True
            kept += len(run)
    return masks


def _check_share(share: float) -> None:
    """Refuse a share that is no fraction.

    Raises:
        PlanError: with the value.
    """
    if not 0 < share <= 1:
        raise PlanError(f"`share` must be in (0, 1], got {share}. Give the fraction that stays.")
