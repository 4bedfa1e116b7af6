"""The figure of learning curves shows the mean over seeds and their range."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.figure import Figure

from kd_bench.results.figures.curves import Band, band, svg
from kd_bench.results.figures.svg import data_hash
from kd_bench.results.rendering.report.curves import Curve

ST = band([Curve((1, 2, 3, 4), (10.0, 70.0, 80.0, 90.0)), Curve((1, 2, 3, 4), (20, 60, 84, 91))])
BASELINE = band([Curve((1, 2, 3, 4), (11.0, 50.0, 70.0, 80.0))])


def test_a_band_spans_the_lowest_to_the_highest_seed():
    assert Band([1, 2, 3, 4], [10, 60, 80, 90], [15, 65, 82, 90.5], [20, 70, 84, 91]) == ST


def test_a_single_seed_is_a_band_without_width():
    assert BASELINE.lowest == BASELINE.mean == BASELINE.highest


def test_only_epochs_of_all_seeds_are_used():
    assert band([Curve((1, 3), (1.0, 3.0)), Curve((1, 2, 3), (3.0, 9.0, 5.0))]).mean == [2.0, 4.0]


def test_lines_and_bands_are_drawn_over_the_epochs(monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k))
    svg({"st": ST, "baseline": BASELINE})
    (axis,) = figures[0].axes
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines) == ["st", "baseline"]
    assert list(lines["st"].get_ydata()) == [15, 65, 82, 90.5]
    assert len(axis.collections) == 2
    # From the lowest value of the second half, 70, to the overall highest, 91, with margins of 5 %
    assert axis.get_ylim() == (70 - 0.05 * 21, 91 + 0.05 * 21)


@pytest.mark.slow
def test_the_hash_depends_on_the_bands_and_their_names():
    first, same = (svg({"st": ST}) for _ in range(2))
    assert first == same
    hashes = {data_hash(first), data_hash(svg({"at": ST})), data_hash(svg({"st": BASELINE}))}
    assert None not in hashes
    assert len(hashes) == 3


def test_any_name_is_shown_as_text():
    picture = svg({"<img src=x> $x_{$": ST})
    ElementTree.fromstring(picture)
    assert "<img" not in picture
