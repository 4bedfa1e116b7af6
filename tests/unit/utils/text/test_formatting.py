"""Durations, sizes and counts as people write them."""

import pytest

from kd_bench.utils.text.formatting import pluralize


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
def test_one_is_singular_and_all_else_plural(number, noun, text):
    assert pluralize(number, noun) == text
