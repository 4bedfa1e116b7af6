"""A table of texts in a terminal: columns side by side, or below each other."""

from kd_bench.utils.text.grid import UNLIMITED, side_by_side

ROWS = [["name", "a long heading", "b"], ["first", "1.0", "a long cell"], ["second", "2.0", "2"]]


def test_columns_that_fit_are_side_by_side():
    (picture,) = side_by_side(ROWS, UNLIMITED)
    assert [line.split() for line in picture.splitlines()] == [
        ["name", "a", "long", "heading", "b"],
        ["─" * 37],
        ["first", "1.0", "a", "long", "cell"],
        ["second", "2.0", "2"],
    ]


def test_a_heading_is_wrapped_before_a_column_is_moved_below():
    # names 6, words of the heading 7, cells 11; two gaps of 3, and 2 at the edges: 32
    (picture,) = side_by_side(ROWS, 32)
    assert "a long cell" in picture
    assert "a long heading" not in picture
    first, second = side_by_side(ROWS, 31)
    assert "a long heading" in first
    assert "a long cell" in second
    assert "second" in first
    assert "second" in second


def test_a_single_column_that_is_too_wide_is_wrapped():
    pictures = side_by_side(ROWS, 14)
    assert len(pictures) == 2
    assert max(len(line) for picture in pictures for line in picture.splitlines()) <= 14


def test_wide_characters_count_as_two():
    pictures = side_by_side([["m", "値" * 8], ["x", "1"]], 20)
    assert "値" * 8 not in pictures[0]  # 1 + 16 + 3 + 2 is more than 20
