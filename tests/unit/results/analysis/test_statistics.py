"""Tests, corrections, power and variances compared with values by hand and scipy.stats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kd_bench.results.analysis.statistics import (
    Pooled,
    crossed_variances,
    detectable,
    half_width,
    holm,
    p_values,
    pooled,
    seeds_to_detect,
    unlike,
)

A, B = [89.1, 90.4, 90.9, 91.7], [91.0, 92.2, 91.9]


def test_the_pooled_deviation_weights_cells_by_their_degrees_of_freedom():
    # [1, 3]: squares 1 + 1 = 2, df 1. [0, 3, 6]: squares 9 + 0 + 9 = 18, df 2. [7]: df 0.
    # sd = sqrt((2 + 18) / (1 + 2))
    result = pooled([[1, 3], [0, 3, 6], [7]])
    assert result.sd == pytest.approx(math.sqrt(20 / 3))
    assert result.df == 3
    assert pooled([[1.0], [2.0], []]) is None


def test_the_interval_of_a_difference_uses_the_t_distribution():
    # two-sided 95 % quantiles from a printed table: 2.776 at 4 degrees of freedom, 12.706 at 1
    assert half_width(Pooled(0.2, 4), 3, 3) == pytest.approx(
        2.776 * 0.2 * math.sqrt(2 / 3), rel=1e-3
    )
    assert half_width(Pooled(1.0, 1), 1, 4) == pytest.approx(12.706 * math.sqrt(1.25), rel=1e-3)


def test_two_cells_are_compared_as_by_students_t_test():
    difference = np.mean(A) - np.mean(B)
    expected = stats.ttest_ind(A, B)  # equal variances
    (found,) = p_values(pooled([A, B]), np.array([difference]), np.array([4]), np.array([3]))
    assert found == pytest.approx(expected.pvalue)
    # The statistic is the difference over its standard error; 4 + 3 - 2 degrees of freedom.
    error = difference / expected.statistic
    width = half_width(pooled([A, B]), 4, 3)
    assert width == pytest.approx(stats.t.ppf(0.975, 5) * error)


def test_without_variance_every_difference_is_significant():
    exact = Pooled(0.0, 4)
    three = np.array([3, 3])
    assert p_values(exact, np.array([0.0, 0.1]), three, three).tolist() == [1.0, 0.0]


def test_holm_divides_the_level_by_the_number_of_hypotheses_left():
    # 0.05 / 3 = 0.0167, 0.05 / 2 = 0.025, 0.05 / 1
    assert holm([0.049, 0.016, 0.024]).tolist() == [True, True, True]
    assert holm([0.026, 0.016, 0.026]).tolist() == [False, True, False]
    assert holm([0.017, 0.018, 0.019]).tolist() == [False, False, False]
    assert holm([]).tolist() == []


@pytest.mark.parametrize(("df", "n", "m", "comparisons"), [(4, 3, 3, 1), (22, 3, 2, 10)])
def test_a_detectable_difference_is_found_with_a_power_of_80_percent(df, n, m, comparisons):
    error = 0.31 * math.sqrt(1 / n + 1 / m)
    noncentrality = detectable(Pooled(0.31, df), n, m, comparisons) / error
    quantile = stats.t.ppf(1 - 0.025 / comparisons, df)
    assert stats.nct.sf(quantile, df, noncentrality) == pytest.approx(0.8, abs=1e-6)


def test_with_many_seeds_the_detectable_difference_is_the_normal_distributions():
    expected = (1.959964 + 0.841621) * math.sqrt(2 / 3)  # quantiles from a printed table
    assert detectable(Pooled(1.0, 10**7), 3, 3) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("sd", "difference", "seeds"), [(0.31, 0.3, 18), (0.31, 0.2, 39), (0.25, 0.3, 12)]
)
def test_the_seeds_of_a_plan_are_the_fewest_with_a_power_of_80_percent(sd, difference, seeds):
    def power(n: int) -> float:
        df = 2 * (n - 1)
        return stats.nct.sf(stats.t.ppf(0.975, df), df, difference / (sd * math.sqrt(2 / n)))

    assert seeds_to_detect(sd, difference) == seeds
    assert power(seeds) >= 0.8 > power(seeds - 1)


def test_more_methods_need_more_seeds_and_tiny_differences_too_many():
    assert seeds_to_detect(0.31, 0.3, methods=10) > seeds_to_detect(0.31, 0.3)
    assert seeds_to_detect(0.31, 10.0) == 2
    assert seeds_to_detect(0.31, 1e-6) is None


def test_variances_of_crossed_seeds_by_hand():
    # Row means 2 and 4, column means 1, 3 and 5, overall 3. Residuals (0, 1, -1) and (0, -1, 1):
    # MS = 4 / 2 = 2. Students: 3 * (1 + 1) / 1 = 6; (6 - 2) / 3. Teachers: 2 * (4 + 0 + 4) / 2 = 8;
    # (8 - 2) / 2.
    found = crossed_variances([[[0, 3, 3], [2, 3, 7]]])
    assert (found.student, found.teacher, found.both) == pytest.approx((4 / 3, 3.0, 2.0))


def test_variances_of_several_methods_are_averaged_and_may_be_below_zero():
    # Pure interaction: both mean squares are 0, that of residuals is 4: (0 - 4) / 2 each.
    checkers = [[1, -1], [-1, 1]]
    found = crossed_variances([checkers, checkers])
    assert (found.student, found.teacher, found.both) == pytest.approx((-2.0, -2.0, 4.0))
    flat = [[0, 0], [0, 0]]
    assert crossed_variances([checkers, flat]).both == pytest.approx(2.0)
    assert crossed_variances([]) is None


def test_variances_are_recovered_from_a_simulation():
    generator = np.random.default_rng(0)
    tables = [
        3 * generator.normal(size=(4, 1))
        + 2 * generator.normal(size=(1, 5))
        + generator.normal(size=(4, 5))
        for _ in range(2000)
    ]
    found = crossed_variances([table.tolist() for table in tables])
    assert (found.student, found.teacher, found.both) == pytest.approx((9, 4, 1), rel=0.06)


def test_a_sample_with_a_significantly_larger_variance_is_unlike_the_others():
    # Variances 1, 1, 1 and 100, two degrees of freedom each: F = 100 with 2 and 6 degrees, whose
    # upper quantile at 0.01 / 4 is 19.1; without that sample F = 1
    like = {name: [0.0, 1.0, 2.0] for name in ("a", "b", "c")}
    assert stats.f.ppf(1 - 0.01 / 4, 2, 6) < 100
    assert unlike({**like, "d": [0.0, 10.0, 20.0]}, keep="a") == {"d"}
    assert unlike({**like, "d": [0.0, 10.0, 20.0]}, keep="d") == set()
    assert unlike({**like, "d": [0.0, 4.0, 8.0]}, keep="a") == set()  # F = 16
    assert unlike({**like, "d": [50.0]}, keep="a") == set()
    both = {"d": [0.0, 10.0, 20.0], "e": [0.0, 1000.0, 2000.0]}
    assert unlike({**like, **both}, keep="d") == {"e"}


def test_with_two_samples_or_equal_variances_none_is_unlike():
    assert unlike({"a": [0.0, 1.0], "b": [0.0, 100.0]}, keep="a") == set()
    assert unlike({name: [1.0, 1.0] for name in "abc"}, keep="a") == set()
