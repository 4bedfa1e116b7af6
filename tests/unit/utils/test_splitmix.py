"""Random numbers from integers: the published sequence, and the distributions derived from it."""

import torch
from helpers.splitmix import WORD, reference_splitmix64
from hypothesis import given, strategies
from scipy import stats

from kd_bench.utils.splitmix import below, normal, splitmix64, uniform

INT64 = strategies.integers(-(1 << 63), (1 << 63) - 1)


def test_splitmix64_gives_the_published_sequence():
    # The generator with seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64"); its
    # state grows by a constant with each output.
    states = 1234567 + torch.arange(5) * (0x9E3779B97F4A7C15 - WORD)
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [z % WORD for z in splitmix64(states).tolist()] == published


@given(INT64)
def test_splitmix64_in_int64_equals_big_integers(state):
    assert splitmix64(torch.tensor(state)).item() % WORD == reference_splitmix64(state)


def test_uniform_numbers_are_uniform_and_neither_0_nor_1():
    assert stats.kstest(uniform(splitmix64(torch.arange(10_000))).numpy(), "uniform").pvalue > 0.01
    ends = uniform(torch.tensor([0, -1]))
    assert 0 < ends[0] < 1e-15
    assert 1 - 1e-15 < ends[1] < 1


def test_normal_numbers_are_normal_and_finite_at_both_ends():
    words = splitmix64(torch.arange(10_000))
    assert stats.kstest(normal(words).numpy(), "norm").pvalue > 0.01
    ends = normal(torch.tensor([0, -1, 1 << 62, -(1 << 63)]))  # the words 0 and 2^64 - 1 among them
    assert ends.isfinite().all()
    assert ends[0] == -ends[1] < -8  # a probability of 2^-53 on either side


def test_integers_below_a_number_are_uniform():
    drawn = below(splitmix64(torch.arange(10_000)), 7)
    assert stats.chisquare(drawn.bincount(minlength=7).numpy()).pvalue > 0.01
