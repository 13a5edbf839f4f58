"""k-means against every possible split of small inputs; codebooks."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsn_toolkit.numerics.errors import NumericsError
from tsn_toolkit.numerics.kmeans import assign_codes, fit_codebook, kmeans_1d


def brute_force_inertia(values: list[float], k: int) -> float:
    ordered = sorted(values)
    best = np.inf
    for cuts in combinations(range(1, len(ordered)), min(k, len(ordered)) - 1):
        runs = np.split(np.array(ordered), cuts)
        best = min(best, sum(((run - run.mean()) ** 2).sum() for run in runs))
    return float(best)


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=9), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_reaches_the_best_of_all_splits(values, k):
    centroids, inertia = kmeans_1d(values, k)
    assert inertia == pytest.approx(brute_force_inertia(values, k), abs=1e-9)
    assert len(centroids) == k and (np.diff(centroids) >= 0).all()
    distance = np.abs(np.array(values)[:, None] - centroids).min(axis=1)
    assert inertia == pytest.approx(float((distance**2).sum()), abs=1e-9)


def test_large_input_is_near_the_known_optimum_and_ignores_order():
    values = np.random.default_rng(0).normal(size=20000)
    centroids, inertia = kmeans_1d(values, 4)
    # Lloyd-Max quantizer of a unit Gaussian with 4 levels: +-0.4528, +-1.5104, error 0.11748.
    np.testing.assert_allclose(centroids, [-1.5104, -0.4528, 0.4528, 1.5104], atol=0.04)
    assert inertia / len(values) == pytest.approx(0.11748, rel=0.03)
    np.testing.assert_allclose(kmeans_1d(values[::-1], 4)[0], centroids, rtol=0, atol=0)


def test_fixed_point_of_lloyd():
    values = np.random.default_rng(1).laplace(size=5000)
    centroids, _ = kmeans_1d(values, 7)
    nearest = np.abs(values[:, None] - centroids).argmin(axis=1)
    np.testing.assert_allclose([values[nearest == i].mean() for i in range(7)], centroids, atol=1e-9)


def slow_lloyd(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    for _ in range(300):
        nearest = np.abs(values[:, None] - centroids).argmin(axis=1)
        moved = np.array([values[nearest == i].mean() for i in range(len(centroids))])
        if np.allclose(moved, centroids, rtol=0, atol=1e-13):
            break
        centroids = moved
    return centroids


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "two peaks"])
def test_plain_lloyd_cannot_move_the_result(kind):
    rng = np.random.default_rng(2)
    peaks = np.concatenate([rng.normal(-40, 1, 2000), rng.normal(30, 6, 1000)])
    values = {"normal": rng.normal(size=3000), "laplace": rng.laplace(size=3000), "uniform": rng.random(3000), "two peaks": peaks}[kind]
    centroids, _ = kmeans_1d(values, 6)
    np.testing.assert_allclose(slow_lloyd(values, centroids), centroids, atol=1e-9)


def test_float32_values_give_what_the_same_float64_values_give():
    values = (np.random.default_rng(3).normal(size=9000) * 20).astype(np.float32)
    narrow, wide = kmeans_1d(values, 16), kmeans_1d(values.astype(np.float64), 16)
    np.testing.assert_allclose(narrow[0], wide[0], rtol=1e-12)
    assert narrow[1] == pytest.approx(wide[1], rel=1e-12)
    codebook = fit_codebook(values, 4, 127)
    assert assign_codes(values, codebook).tolist() == assign_codes(values.astype(np.float64), codebook).tolist()


def test_a_far_outlier_takes_one_centroid_and_no_more():
    values = np.append(np.random.default_rng(4).normal(size=20000), 1e6)
    centroids, inertia = kmeans_1d(values, 5)
    np.testing.assert_allclose(centroids, [-1.5104, -0.4528, 0.4528, 1.5104, 1e6], atol=0.04)
    assert inertia / len(values) == pytest.approx(0.11748, rel=0.03)


def test_a_heavy_value_leaves_centroids_for_the_others():
    rng = np.random.default_rng(5)
    values = np.concatenate([np.zeros(200_000), rng.normal(100, 1e-3, 3000), [-1e5]])
    centroids, inertia = kmeans_1d(values, 6)
    np.testing.assert_allclose(centroids, [-1e5, 0, *(100 + 1e-3 * np.array([-1.5104, -0.4528, 0.4528, 1.5104]))], atol=2e-4)
    assert inertia == pytest.approx(0.11748 * 3000 * 1e-6, rel=0.1)


def test_better_than_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    values = np.random.default_rng(6).standard_t(3, size=20000)
    reference = cluster.KMeans(16, n_init=1, random_state=0).fit(values[:, None])
    assert kmeans_1d(values, 16)[1] <= reference.inertia_


def test_no_values_and_few_values():
    assert kmeans_1d([], 3)[0].tolist() == [0, 0, 0]
    assert kmeans_1d([2.0, 1.0, 2.0], 3)[0].tolist() == [1, 2, 2]


def test_codebook():
    assert fit_codebook([-3.2, -2.8, 10.1, 9.9], 1, 127).tolist() == [-3, 10]
    assert fit_codebook([500.0, -500.0], 1, 63).tolist() == [-63, 63]
    assert fit_codebook([5.0], 2, 127).tolist() == [5, 5, 5, 5]
    assert fit_codebook([], 1, 127).tolist() == [0, 0]
    assert fit_codebook([1.0], 0, 127).tolist() == []
    assert fit_codebook([1.0], 8, 127).tolist() == [*range(-127, 128), 127]
    assert fit_codebook([1.0], 8, 127).dtype == np.int8


def test_codes_take_the_lower_index_on_a_tie():
    codebook = np.array([-2, 0, 4, 4], np.int8)
    assert assign_codes([-9, -1, -0.9, 2, 2.1, 99], codebook).tolist() == [0, 0, 1, 1, 2, 2]


@given(st.lists(st.floats(-140, 140), max_size=20), st.lists(st.integers(-127, 127), min_size=1, max_size=16))
@settings(max_examples=150, deadline=None)
def test_codes_are_the_nearest_entries(values, entries):
    codebook = np.sort(np.array(entries, np.int8))
    expected = [int(np.argmin([abs(value - float(entry)) for entry in codebook])) for value in values]
    codes = assign_codes(values, codebook)
    chosen, best = codebook[codes].astype(float), codebook[expected].astype(float) if expected else np.zeros(0)
    np.testing.assert_allclose(np.abs(np.array(values) - chosen), np.abs(np.array(values) - best), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans_1d([1.0], 0), "got 0"),
        (lambda: kmeans_1d([1.0], 257), "got 257"),
        (lambda: kmeans_1d([np.nan], 2), "got nan"),
        (lambda: kmeans_1d([1.0, -np.inf], 2), "got -inf"),
        (lambda: kmeans_1d([1.0, 1e101], 2), r"got 1e\+101"),
        (lambda: fit_codebook([1.0], 9, 127), "got 9"),
        (lambda: fit_codebook([1.0], 4, 128), "got 128"),
        (lambda: assign_codes([1.0], np.array([3, 1], np.int8)), r"got \[3, 1\]"),
        (lambda: assign_codes([np.inf], np.array([3], np.int8)), "got inf"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(NumericsError, match=message):
        call()
