"""Statistics for a few seeds: pooled deviation, intervals, corrected tests, power, variances."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
from scipy.special import fdtrc, nctdtrinc, stdtr, stdtrit

CONFIDENCE = 0.95  # two-sided
POWER = 0.8  # the probability that a detectable difference is found significant
OUTLIER = 0.01  # level of the test for an outlying variance
MOST_SEEDS = 1_000_000  # largest number of seeds that a plan considers


@dataclass(frozen=True)
class Pooled:
    """A standard deviation estimated from several cells, assumed to be equal in all of them."""

    sd: float
    df: int  # degrees of freedom: the sum of n - 1


def pooled(samples: Iterable[Sequence[float]]) -> Pooled | None:
    """The SD within samples, each around its own mean; None if no sample has two values.

    sd^2 = sum_i sum_k (x_ik - mean_i)^2 / sum_i (n_i - 1)
    """
    samples = [list(sample) for sample in samples if len(sample) > 1]
    if not samples:
        return None
    df = sum(len(sample) - 1 for sample in samples)
    squares = sum((x - fmean(sample)) ** 2 for sample in samples for x in sample)
    return Pooled(math.sqrt(squares / df), df)


def unlike(samples: Mapping[str, Sequence[float]], keep: str) -> set[str]:
    """The samples that vary so much more than the others that they cannot share a common SD.

    One by one, the sample with the largest variance is removed if an F test against the pooled
    variance of the remaining ones rejects equality at 1 % divided by the number of samples. This is
    Cochran's test for the largest variance, for any sample sizes ('t Lam, Analytica Chimica Acta
    659 (2010)).

    Args:
        samples: by name.
        keep: a name that is never removed, since all others are compared with it.
    """
    left = {name: values for name, values in samples.items() if len(values) > 1}
    found: set[str] = set()
    while len(left) > 2:
        name = max((n for n in left if n != keep), key=lambda name: variance(left[name]))
        others = pooled(values for other, values in left.items() if other != name)
        df = len(left[name]) - 1
        assert others is not None  # there are at least two
        is_like = variance(left[name]) <= 0 or (
            others.sd > 0
            and fdtrc(df, others.df, variance(left[name]) / others.sd**2) > OUTLIER / len(left)
        )
        if is_like:
            break
        found.add(name)
        del left[name]
    return found


def half_width(deviation: Pooled, n: int, m: int) -> float:
    """Half the width of the 95 % interval of the difference between means of `n` and `m` runs.

    t_{0.975, df} * sd * sqrt(1/n + 1/m), with runs treated as independent. If runs of the same seed
    are positively correlated, the interval of their paired difference is shorter; three seeds are
    too few to estimate that, so this is the wider one.
    """
    quantile = float(stdtrit(deviation.df, (1 + CONFIDENCE) / 2))
    return quantile * deviation.sd * math.sqrt(1 / n + 1 / m)


def p_values(
    deviation: Pooled, differences: np.ndarray, n: np.ndarray, m: np.ndarray
) -> np.ndarray:
    """Two-sided p-values of differences between means of `n` and `m` runs; see `half_width`.

    Args:
        deviation: of the runs; 0 if all seeds of each cell are equal.
        differences: in points, shape (k,).
        n: runs of one mean, shape (k,).
        m: runs of the other mean, shape (k,).
    """
    if deviation.sd == 0:
        return (differences == 0).astype(float)
    errors = deviation.sd * np.sqrt(1 / n + 1 / m)
    return 2 * stdtr(deviation.df, -np.abs(differences) / errors)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which hypotheses are rejected, with a family-wise error rate of at most 5 %.

    In ascending order of p-values, the k-th of m is rejected if p <= 0.05 / (m - k + 1), up to the
    first that is not. Holm, Scandinavian Journal of Statistics 6 (1979). Valid whether or not the
    tests are independent.

    Args:
        p_values: shape (m,).

    Returns:
        Booleans, shape (m,).
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    levels = (1 - CONFIDENCE) / np.arange(len(values), 0, -1)
    rejected = np.zeros(len(values), dtype=bool)
    rejected[order] = np.logical_and.accumulate(values[order] <= levels)
    return rejected


def detectable(deviation: Pooled, n: int, m: int, comparisons: int = 1) -> float:
    """The true difference between means of `n` and `m` runs that is detected with 80 % power.

    delta sd sqrt(1/n + 1/m), where a noncentral t with df degrees of freedom and noncentrality
    delta exceeds the two-sided quantile of t with a probability of 80 %. The opposite tail, less
    than 1e-5, is neglected.

    Args:
        deviation: of the runs.
        n: runs of one method.
        m: runs of the other.
        comparisons: number of tests that the level is divided by (Bonferroni), a bound for the
            first step of Holm.
    """
    quantile = float(stdtrit(deviation.df, 1 - (1 - CONFIDENCE) / (2 * comparisons)))
    noncentrality = float(nctdtrinc(deviation.df, 1 - POWER, quantile))
    return noncentrality * deviation.sd * math.sqrt(1 / n + 1 / m)


def seeds_to_detect(sd: float, difference: float, methods: int = 1) -> int | None:
    """Seeds per method, of `methods` and the baseline, that make a difference `detectable`.

    The deviation is pooled over all these cells: df = (methods + 1) (seeds - 1).

    Returns:
        The number, at least 2; None if it is above a million.
    """

    def is_enough(seeds: int) -> bool:
        deviation = Pooled(sd, (methods + 1) * (seeds - 1))
        return detectable(deviation, seeds, seeds, methods) <= difference

    return _first(is_enough)


def _first(is_enough: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds, at least 2, that is enough."""
    found = 2 + bisect_left(range(2, MOST_SEEDS + 1), True, key=is_enough)
    return found if found <= MOST_SEEDS else None


@dataclass(frozen=True)
class Variances:
    """Variance components of an accuracy; an estimate may be negative."""

    student: float  # between seeds of the student
    teacher: float  # between seeds of the teacher
    both: float  # of the combination: not explained by either seed alone


def crossed_variances(tables: Sequence[Sequence[Sequence[float]]]) -> Variances | None:
    """Variances of student and teacher from a two-way analysis of variance with random effects.

    Method of moments with one run per combination of s student seeds (rows) and t teacher seeds
    (columns): MS_r = sum_ij (x_ij - x_i. - x_.j + x_..)^2 / ((s - 1)(t - 1)) estimates `both`,
    (t sum_i (x_i. - x_..)^2 / (s - 1) - MS_r) / t the student's variance; likewise for the teacher.
    Searle, Casella and McCulloch, Variance Components (1992), chapter 4.

    Args:
        tables: accuracies of some methods, each (s, t) with s, t >= 2; estimates are averaged.

    Returns:
        None without any table.
    """
    estimates = [_crossed(table) for table in tables]
    if not estimates:
        return None
    return Variances(*(fmean(values) for values in zip(*estimates, strict=True)))


def _crossed(table: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The estimates of one method: student, teacher, both."""
    s, t = len(table), len(table[0])
    by_student = [fmean(row) for row in table]
    by_teacher = [fmean(column) for column in zip(*table, strict=True)]
    overall = fmean(by_student)
    residuals = (
        table[i][j] - by_student[i] - by_teacher[j] + overall for i in range(s) for j in range(t)
    )
    both = sum(residual**2 for residual in residuals) / ((s - 1) * (t - 1))
    between_students = t * sum((mean - overall) ** 2 for mean in by_student) / (s - 1)
    between_teachers = s * sum((mean - overall) ** 2 for mean in by_teacher) / (t - 1)
    return (between_students - both) / t, (between_teachers - both) / s, both
