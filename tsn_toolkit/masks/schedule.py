"""How the density of a mask falls while it is learned."""

from __future__ import annotations


def cubic_density(start: float, end: float, progress: float) -> float:
    """Density after a share of the descent (Zhu and Gupta, "To prune, or not to prune", 2017): fast at first, slow near the end.

    Args:
        start, end: densities before and after, fractions.
        progress: share of the descent that is done; beyond 1 the density stays.

    >>> cubic_density(1.0, 0.2, 0.0), cubic_density(1.0, 0.2, 0.5), cubic_density(1.0, 0.2, 2.0)
    (1.0, 0.3, 0.2)
    """
    return round(end + (start - end) * (1 - min(max(progress, 0.0), 1.0)) ** 3, 12)
