"""Ranks, wins, gaps and the bootstrap over pairs, compared with values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kd_bench.results.analysis.summary import (
    Tally,
    average_ranks,
    bootstrap_interval,
    gaps,
    tally,
)

# Three rows on two pairs
SCORES = np.array([[90.0, 80.0], [91.0, 79.0], [89.0, 80.0]])


def test_ranks_are_averaged_over_pairs_and_ties_share_a_rank():
    # first pair: 2, 1, 3; second: the first and third share 1 and 2
    assert average_ranks(SCORES).tolist() == [(2 + 1.5) / 2, (1 + 3) / 2, (3 + 1.5) / 2]


def test_rows_that_all_tie_have_the_middle_rank():
    assert average_ranks(np.ones((4, 3))).tolist() == [2.5] * 4


def test_wins_ties_and_losses_are_counted():
    assert tally(SCORES[0], SCORES[2]) == Tally(wins=1, ties=1, losses=0)
    assert tally(SCORES[1], SCORES[0]) == Tally(wins=1, ties=0, losses=1)


def test_gaps_are_distances_to_the_best_of_each_pair_in_ascending_order():
    assert gaps(SCORES).tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, 2.0]]


def test_the_bootstrap_resamples_pairs():
    # The mean of three pairs is 3 with probability 1/27 = 3.7 %, 0 with 8/27: both are above 2.5 %
    assert bootstrap_interval([[0.0], [0.0], [3.0]]) == (0.0, 3.0)
    # The pair of 5 is drawn four times with probability 20/3125 = 0.6 %, three times with 5.1 %
    assert bootstrap_interval([[0.0]] * 4 + [[5.0]]) == (0.0, 3.0)


def test_the_bootstrap_resamples_seeds_within_the_drawn_pairs():
    # Four draws of 0 or 4: all equal with probability 1/16 each
    assert bootstrap_interval([[0.0, 4.0], [0.0, 4.0]]) == (0.0, 4.0)
    # Twelve draws: at most two of them are 4 with probability 79/4096 = 1.9 %, three with 5.4 %
    assert bootstrap_interval([[0.0, 4.0, 0.0, 4.0]] * 3) == (1.0, 3.0)


def test_a_pair_with_fewer_seeds_uses_only_those():
    # Both means are always 2; counting a missing seed as 0 would lower one
    assert bootstrap_interval([[2.0, 2.0, 2.0], [2.0]]) == (2.0, 2.0)


def test_all_seeds_of_a_pair_have_the_same_probability():
    # One pair: the mean of three draws of 0, 3 and 6 is 0 with 1/27, and 6 with 1/27
    assert bootstrap_interval([[0.0, 3.0, 6.0]]) == (0.0, 6.0)


@pytest.mark.slow
def test_the_interval_agrees_with_an_independent_bootstrap():
    random = np.random.default_rng(1)
    pairs = [list(random.normal(place, 1.0, size=3 + place % 2)) for place in range(6)]
    means = []
    for _ in range(4000):
        drawn = [pairs[k] for k in random.integers(len(pairs), size=len(pairs))]
        means.append(np.mean([np.mean(random.choice(seeds, len(seeds))) for seeds in drawn]))
    expected = np.percentile(means, [2.5, 97.5])
    # The error of a percentile from 4,000 draws is about 0.05; the SD of the mean is 0.75
    assert bootstrap_interval(pairs) == pytest.approx(tuple(expected), abs=0.15)


def test_the_interval_is_the_same_every_time():
    pairs = [[0.1, 0.5], [0.9, 1.7], [0.3]]
    assert bootstrap_interval(pairs) == bootstrap_interval(pairs)
