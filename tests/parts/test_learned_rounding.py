import itertools

import numpy as np
import pytest

from tsn_toolkit.parts.learned_rounding import learned_round

BOOK = np.array([-40, -9, 0, 3, 17, 60, 60, 60], np.int8)
ENTRIES = np.unique(BOOK).astype(float)


def correlated(rows, columns, seed):
    random = np.random.default_rng(seed)
    causes = random.standard_normal((400, 2)) @ random.standard_normal((2, columns))
    inputs = causes + 0.3 * random.standard_normal((400, columns))
    return 20 * random.standard_normal((rows, columns)), inputs.T @ inputs


def nearest(values):
    return ENTRIES[np.abs(values[..., None] - ENTRIES).argmin(-1)]


def row_errors(rounded, values, gram):
    error = rounded - values
    return np.einsum("ri,ij,rj->r", error, gram, error)


def test_takes_one_of_the_two_neighbours_and_leaves_other_slots_alone():
    values, gram = correlated(8, 9, 0)
    own = np.random.default_rng(1).random(values.shape) < 0.6
    rounded = learned_round(values, own, gram, BOOK, steps=100)
    np.testing.assert_array_equal(rounded[~own], values[~own])
    for value, entry in zip(values[own], rounded[own], strict=True):
        below = ENTRIES[ENTRIES <= value].max(initial=ENTRIES[0])
        above = ENTRIES[ENTRIES > value].min(initial=ENTRIES[-1])
        assert entry in (below, above), value


def test_beats_the_nearest_entry_on_correlated_inputs():
    values, gram = correlated(32, 24, 1)
    values = np.clip(0.8 * values, -40, 60)
    rounded = learned_round(values, np.ones(values.shape, bool), gram, BOOK, steps=60)
    assert row_errors(rounded, values, gram).sum() < 0.5 * row_errors(nearest(values), values, gram).sum()


def test_comes_near_the_best_of_all_choices_of_neighbours():
    values, gram = correlated(8, 8, 2)
    values = np.clip(0.8 * values, -40, 60)
    rounded = learned_round(values, np.ones(values.shape, bool), gram, BOOK, steps=60)
    best = []
    for row in values:
        sides = [(ENTRIES[ENTRIES <= value].max(), ENTRIES[ENTRIES >= value].min()) for value in row]
        best.append(row_errors(np.array(list(itertools.product(*sides))), row[None], gram).min())
    assert sum(best) <= row_errors(rounded, values, gram).sum() < 1.4 * sum(best)


@pytest.mark.parametrize(("steps", "path"), [(60, "learned"), (1, "descent alone")])
def test_no_single_move_to_the_other_neighbour_helps(steps, path):
    values, gram = correlated(5, 7, 4)
    rounded = learned_round(values, np.ones(values.shape, bool), gram, BOOK, steps=steps)
    errors = row_errors(rounded, values, gram)
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        for entry in (ENTRIES[ENTRIES <= value].max(initial=-40.0), ENTRIES[ENTRIES >= value].min(initial=60.0)):
            moved = rounded.copy()
            moved[row, column] = np.clip(entry, -40, 60)
            assert row_errors(moved, values, gram)[row] >= errors[row] * (1 - 1e-9), path


def test_repeats_itself_and_keeps_what_needs_no_rounding():
    values, gram = correlated(4, 6, 3)
    own = np.ones(values.shape, bool)
    first = learned_round(values, own, gram, BOOK, steps=50)
    np.testing.assert_array_equal(first, learned_round(values, own, gram, BOOK, steps=50))
    exact = nearest(values)
    np.testing.assert_array_equal(learned_round(exact, own, gram, BOOK, steps=50), exact)
