import numpy as np
import pytest

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.gptq import gptq_round

BOOK = np.array([-40, -9, 0, 3, 17, 60, 60, 60], np.int8)


def correlated(rows=6, columns=10, seed=0):
    """Weights in units of q and the gram of inputs that follow two hidden causes."""
    random = np.random.default_rng(seed)
    causes = random.standard_normal((400, 2)) @ random.standard_normal((2, columns))
    inputs = causes + 0.3 * random.standard_normal((400, columns))
    return 20 * random.standard_normal((rows, columns)), inputs.T @ inputs


def slow_reference(values, own, gram, damping):
    """Row by row, column by column; at each the inverse of what is left is computed anew (optimal brain quantization in a fixed order)."""
    result = values.copy()
    for row, slots in zip(result, own, strict=True):
        free = [int(j) for j in np.flatnonzero(slots)]
        if not free:
            continue
        damped = gram[np.ix_(free, free)] + damping * np.mean([gram[j, j] for j in free]) * np.eye(len(free))
        for place, j in enumerate(free):
            inverse = np.linalg.inv(damped[place:, place:])
            entry = min(np.unique(BOOK), key=lambda e: abs(float(e) - row[j]))
            error = row[j] - entry
            row[free[place:]] -= error / inverse[0, 0] * inverse[0]
            row[j] = entry
    return result


def output_error(rounded, values, gram):
    error = rounded - values
    return np.einsum("ri,ij,rj->r", error, gram, error).sum()


def nearest(values, own):
    entries = np.unique(BOOK).astype(float)
    return np.where(own, entries[np.abs(values[..., None] - entries).argmin(-1)], values)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.0])
def test_equals_the_slow_reference_for_any_own_slots(density):
    values, gram = correlated()
    own = np.random.default_rng(3).random(values.shape) < density
    rounded = gptq_round(values, own, gram, BOOK, damping=0.01)
    np.testing.assert_allclose(rounded, slow_reference(values, own, gram, 0.01), atol=1e-9)
    np.testing.assert_array_equal(rounded[~own], values[~own])
    assert np.isin(rounded[own], BOOK).all()


def test_beats_the_nearest_entry_on_correlated_inputs():
    values, gram = correlated(rows=32, columns=24, seed=1)
    own = np.ones(values.shape, bool)
    rounded = gptq_round(values, own, gram, BOOK, damping=0.01)
    assert output_error(rounded, values, gram) < 0.5 * output_error(nearest(values, own), values, gram)


def test_independent_inputs_give_the_nearest_entry():
    values, _ = correlated(seed=2)
    own = np.ones(values.shape, bool)
    np.testing.assert_array_equal(gptq_round(values, own, 3.0 * np.eye(10), BOOK, damping=0.01), nearest(values, own))
    np.testing.assert_array_equal(gptq_round(values, own, np.zeros((10, 10)), BOOK, damping=0.01), nearest(values, own))  # no input at all


def test_what_does_not_fit_is_refused():
    values, gram = correlated()
    with pytest.raises(NumericsError, match=r"\(6, 10\).*\(9, 9\)"):
        gptq_round(values, np.ones(values.shape, bool), gram[:9, :9], BOOK, damping=0.01)
    with pytest.raises(NumericsError, match="damping must be positive.*got 0"):
        gptq_round(values, np.ones(values.shape, bool), gram, BOOK, damping=0.0)
