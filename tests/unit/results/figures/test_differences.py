"""The figure shows the table's differences, and contains a hash of its numbers."""

from __future__ import annotations

import re

import matplotlib as mpl
import pytest
from helpers.written_records import seeds
from matplotlib.figure import Figure

from kd_bench.results.figures import differences
from kd_bench.results.figures.svg import data_hash
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError

# SD 1 in each cell, so the 95 % interval at 4 degrees of freedom is +-2.776 * sqrt(2 / 3) = 2.27.
BASELINE = seeds("baseline", 89.0, 90.0, 91.0)
FAR = seeds("st", 92.0, 93.0, 94.0)
NEAR = seeds("at", 90.0, 92.0, 91.0)


def drawn(records, monkeypatch):
    """The panels of a figure, as matplotlib objects."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k))
    differences.svg(table_from(records))
    return figures[0].axes


@pytest.mark.slow
def test_seeds_means_and_intervals_are_those_of_the_table(monkeypatch):
    (panel,) = drawn(BASELINE + FAR, monkeypatch)
    zero, dots, mean, *caps = panel.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert list(dots.get_xdata()) == [3.0, 3.0, 3.0]
    assert list(mean.get_xdata()) == [3.0]
    assert [cap.get_xdata()[0] for cap in caps] == pytest.approx([3 - 2.267, 3 + 2.267], abs=1e-3)
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["st"]


@pytest.mark.slow
def test_significant_differences_have_another_colour(monkeypatch):
    records = BASELINE + FAR + NEAR
    cells = table_from(records).cells.values()
    assert {cell.delta.mean: cell.effect for cell in cells if cell.delta} == {3.0: 1, 1.0: 0}
    (panel,) = drawn(records, monkeypatch)
    colours = {
        line.get_xdata()[0]: line.get_color() for line in panel.lines if len(line.get_xdata()) == 1
    }
    assert colours[3.0] == differences.SIGNIFICANT
    assert colours[1.0] == differences.OTHER


@pytest.mark.slow
def test_equal_numbers_give_equal_figures_and_other_numbers_do_not():
    first, second = (differences.svg(table_from(BASELINE + FAR)) for _ in range(2))
    other = differences.svg(table_from(BASELINE + NEAR))
    assert first == second
    assert data_hash(first) is not None
    assert data_hash(first) != data_hash(other)


@pytest.mark.slow
def test_the_hash_depends_on_the_numbers_and_not_on_the_style():
    plain = differences.svg(table_from(BASELINE + FAR))
    with mpl.rc_context({"font.size": 20}):
        large = differences.svg(table_from(BASELINE + FAR))
    assert plain != large
    assert data_hash(plain) == data_hash(large)
    assert data_hash(re.sub(r"differences \w+", "", plain)) is None


def test_without_a_baseline_there_are_no_differences_to_draw():
    with pytest.raises(UserError, match="baseline"):
        differences.svg(table_from(FAR))
