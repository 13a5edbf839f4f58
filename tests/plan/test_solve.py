"""The whole problem, costs multiplied, against all choices of random small ones."""

from itertools import product
from math import prod

import numpy as np
import pytest

from tsn_toolkit.plan.solve import solve

OPTIONS = 3


class ProductCosts:
    """Two groups and three layers: a layer's bytes are those of its option times what both groups keep; half of the macs follow each group."""

    relaxing = ("size_bytes", "macs", "latency_ms")

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.values = [np.sort(rng.exponential(1, OPTIONS)) * (np.arange(OPTIONS) > 0) for _ in range(5)]
        self.keep = [np.array([1.0, *np.sort(rng.uniform(0.1, 0.9, OPTIONS - 1))[::-1]]) for _ in range(2)]
        self.bytes = [np.sort(rng.uniform(10, 100, OPTIONS))[::-1] for _ in range(3)]

    def total(self, choice):
        kept = [keep[index] for keep, index in zip(self.keep, choice, strict=False)]
        size = sum(sizes[index] * prod(kept) for sizes, index in zip(self.bytes, choice[2:], strict=True))
        return np.array([size, 100 * prod(kept), 0.0])

    def differences(self, choice):
        found = []
        for item in range(5):
            changed = np.tile(choice, (OPTIONS, 1))
            changed[:, item] = range(OPTIONS)
            found.append(np.array([self.total(row) for row in changed]) - self.total(choice))
        return found

    def divergence(self, choice):
        return float(sum(values[index] for values, index in zip(self.values, choice, strict=True)))

    def largest(self):
        return np.zeros(5, dtype=np.intp)

    def least(self, resource):
        return np.full(5, OPTIONS - 1, dtype=np.intp)


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3, 0.6])
def test_no_bound_exceeds_the_best_of_all_choices(share):
    choices = [np.array(choice) for choice in product(range(OPTIONS), repeat=5)]
    gaps = []
    for seed in range(40):
        model = ProductCosts(seed)
        limits = {"size_bytes": share * model.total(model.largest())[0], "macs": 1.5 * share * 100}
        allowed = np.array([*limits.values(), 1.0])
        best = min((model.divergence(c) for c in choices if (model.total(c) <= allowed).all()), default=None)
        if best is None:
            continue
        found = solve(model, limits)
        assert (found.costs <= allowed * (1 + 1e-6)).all()
        assert found.bound <= best + 1e-9
        gaps.append(found.divergence / best - 1)
    assert len(gaps) > 2 and min(gaps) >= -1e-9 and np.mean(gaps) <= 0.1
