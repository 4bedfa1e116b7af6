"""Statistics of a few seeds: a standard deviation pooled over cells, a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import stdtrit

CONFIDENCE = 0.95  # two-sided


@dataclass(frozen=True)
class Pooled:
    """A standard deviation estimated from several cells, assumed to be the same in all."""

    sd: float
    df: int  # degrees of freedom: the sum of n - 1


def pooled(samples: Iterable[Sequence[float]]) -> Pooled | None:
    """The SD within the samples, each around its own mean; None if none has two values.

    sd^2 = sum_i sum_k (x_ik - mean_i)^2 / sum_i (n_i - 1)
    """
    samples = [list(sample) for sample in samples if len(sample) > 1]
    if not samples:
        return None
    df = sum(len(sample) - 1 for sample in samples)
    squares = sum((x - fmean(sample)) ** 2 for sample in samples for x in sample)
    return Pooled(math.sqrt(squares / df), df)


def half_width(deviation: Pooled, n: int, m: int) -> float:
    """Half the width of the 95 % interval of the difference between means of `n` and `m` runs.

    t_{0.975, df} * sd * sqrt(1/n + 1/m), with runs treated as independent. If runs of the same seed
    are correlated, the interval of their paired difference is shorter; three seeds are too few to
    estimate that, so the wider one is given.
    """
    quantile = float(stdtrit(deviation.df, (1 + CONFIDENCE) / 2))
    return quantile * deviation.sd * math.sqrt(1 / n + 1 / m)
