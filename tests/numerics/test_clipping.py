import numpy as np
import pytest

from tsn_toolkit.numerics.clipping import BINS, AbsoluteHistogram, count_absolute, least_error_step, squared_errors
from tsn_toolkit.numerics.errors import NumericsError


def quantization_error(values, step, levels):
    return float(np.square(np.minimum(np.rint(np.abs(values) / step), levels) * step - np.abs(values)).sum())


def test_errors_by_hand():
    histogram = AbsoluteHistogram(np.array([3.0, 0.0, 0.0, 1.0]), 8.0, 2.0)  # three values at 1, one at 7
    errors = squared_errors(histogram, np.array([1.0, 4.0, 3.5]))
    assert errors.tolist() == [(7 - 2) ** 2, 3 * 1 + 1, 3 * 1]


def test_counts_hold_every_value():
    histogram = count_absolute([-3.0, 0.0, 1.0, 9.0], 4.0, 127)
    assert histogram.counts.sum() == 4 and histogram.counts[0] == 1 and histogram.counts[-1] == 1  # 9 counts in the last bin
    assert histogram.counts[BINS // 4] == 1 and histogram.counts[3 * BINS // 4] == 1


@pytest.mark.parametrize("levels", [7, 127, 255])
@pytest.mark.parametrize("outlier", [1.0, 40.0])
def test_the_step_is_near_the_best_of_a_search_over_the_values_themselves(levels, outlier):
    values = np.random.default_rng(levels).standard_normal(4000)
    values[0] = outlier * 4
    largest = np.abs(values).max()
    step = least_error_step([count_absolute(values, largest, levels)])
    tried = largest / levels * np.linspace(0.005, 1, 1000)
    best = min(quantization_error(values, candidate, levels) for candidate in tried)
    assert quantization_error(values, step, levels) <= 1.03 * best
    assert step <= largest / levels * (1 + 1e-12)


def test_an_outlier_is_clipped_and_a_shared_step_serves_both_tensors():
    random = np.random.default_rng(0)
    body, wide = random.standard_normal(5000), 6 * random.standard_normal(5000)
    spiked = np.append(body, 30.0)
    alone = least_error_step([count_absolute(spiked, 30.0, 15)])
    assert alone < 0.5 * 30 / 15
    parts = [count_absolute(body, np.abs(body).max(), 15), count_absolute(wide, np.abs(wide).max(), 15)]
    shared = least_error_step(parts)
    assert least_error_step(parts[:1]) < shared
    total = [quantization_error(body, step, 15) + quantization_error(wide, step, 15) for step in (shared, 0.7 * shared, 1.4 * shared)]
    assert total[0] < min(total[1:])


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(NumericsError, match="positive largest value, got 0"):
        count_absolute([1.0], 0.0, 127)
    with pytest.raises(NumericsError, match="finite"):
        count_absolute([np.nan], 1.0, 127)
    with pytest.raises(NumericsError, match="at least one histogram"):
        least_error_step([])
