"""Readable durations, sizes and counts."""

import pytest

from kd_bench.utils.text.formatting import format_bytes, format_duration, pluralize


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "under 1 s"),
        (2.6, "3 s"),
        (59.7, "1 min 00 s"),
        (130, "2 min 10 s"),
        (4020, "1 h 07 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_are_readable(value, text):
    assert format_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB")]
)
def test_sizes_are_readable(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "job", "0 jobs"),
        (1, "job", "1 job"),
        (1200, "job", "1,200 jobs"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
    ],
)
def test_one_takes_the_singular_and_other_counts_the_plural(number, noun, text):
    assert pluralize(number, noun) == text
