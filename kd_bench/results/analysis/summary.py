"""Methods over several pairs: average rank, interval of a mean difference, wins, gaps to the best.

Scores are arrays of means, shape (rows, pairs); higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_bench.results.analysis.statistics import CONFIDENCE

RESAMPLES = 10_000
SEED = 0  # for resampling, the same for all methods


@dataclass(frozen=True)
class Tally:
    """Numbers of pairs on which a row is above, equal to and below another one."""

    wins: int
    ties: int
    losses: int


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """The rank of each row, 1 for the highest score of a pair, averaged over pairs: shape (rows,).

    Equal scores share the mean of their ranks. Demšar, Journal of Machine Learning Research 7
    (2006).
    """
    above = (scores[None] > scores[:, None]).sum(axis=1)
    equal = (scores[None] == scores[:, None]).sum(axis=1)  # including itself
    return (above + (equal + 1) / 2).mean(axis=1)


def tally(scores: np.ndarray, rival: np.ndarray) -> Tally:
    """How a row compares with a rival, both of shape (pairs,).

    All differences count, significant or not: counting only significant ones would replace the
    combined evidence of all pairs by an arbitrary threshold (Demšar 2006, 3.1.4).
    """
    return Tally(*(int(test.sum()) for test in (scores > rival, scores == rival, scores < rival)))


def gaps(scores: np.ndarray) -> np.ndarray:
    """How far each row is below the best row of each pair, sorted ascending: shape (rows, pairs).

    The share of a row's gaps up to x is its performance profile at x, with differences instead of
    the ratios of Dolan and Moré, Mathematical Programming 91 (2002).
    """
    return np.sort(scores.max(axis=0) - scores, axis=1)


def bootstrap_interval(differences: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the mean over pairs of a mean difference over seeds.

    Percentile bootstrap: pairs are drawn with replacement, and from each drawn pair, as many seeds
    as it has. Resampling the seeds within each pair is the stratified bootstrap of Agarwal et
    al. (2021), arXiv:2108.13264; drawing pairs as well generalizes the interval to other pairs.

    Args:
        differences: for each pair, those of its seeds.
    """
    generator = np.random.default_rng(SEED)
    n = np.array([len(of_seeds) for of_seeds in differences])
    values = np.zeros((len(n), max(n)))
    for place, of_seeds in enumerate(differences):
        values[place, : len(of_seeds)] = of_seeds
    pairs = generator.integers(len(n), size=(RESAMPLES, len(n)))
    sizes = n[pairs][..., None]
    seeds = (generator.random((*pairs.shape, max(n))) * sizes).astype(int)
    is_drawn = np.arange(max(n)) < sizes  # pairs with fewer seeds have fewer draws
    means = (values[pairs[..., None], seeds] * is_drawn).sum(axis=-1) / sizes[..., 0]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
