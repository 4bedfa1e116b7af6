"""The figure of performance profiles shows the gaps to the best of each pair."""

from __future__ import annotations

import pytest
from helpers.written_records import seeds
from matplotlib.figure import Figure

from kd_bench.results.figures import profile
from kd_bench.results.figures.svg import data_hash
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError


def on_pair(student, **accuracies):
    return [
        r for method, value in accuracies.items() for r in seeds(method, value, student=student)
    ]


# Gaps: at 0 and 1, st 1 and 0, baseline 2 and 3
RECORDS = [
    *on_pair("resnet8", baseline=90.0, st=91.0, at=92.0),
    *on_pair("resnet14", baseline=79.0, st=82.0, at=81.0),
]


def drawn(records, monkeypatch):
    """The panels of a figure, as matplotlib objects."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k))
    profile.svg(table_from(records))
    return figures[0].axes


def test_a_curve_rises_at_each_gap_to_the_best(monkeypatch):
    (panel,) = drawn(RECORDS, monkeypatch)
    curves = {line.get_label(): line for line in panel.lines}
    assert list(curves) == ["at", "st", "baseline"]  # by mean gap
    assert curves["st"].get_xdata().tolist() == pytest.approx([0.0, 0.0, 1.0, 1.05 * 3])
    assert curves["baseline"].get_xdata().tolist() == pytest.approx([0.0, 2.0, 3.0, 1.05 * 3])
    assert curves["baseline"].get_ydata().tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curves["baseline"].get_drawstyle() == "steps-post"


def test_equal_methods_are_all_at_the_best(monkeypatch):
    records = [*on_pair("resnet8", st=91.0, at=91.0), *on_pair("resnet14", st=82.0, at=82.0)]
    (panel,) = drawn(records, monkeypatch)
    assert {tuple(line.get_xdata()) for line in panel.lines} == {(0.0, 0.0, 0.0, 1.0)}


@pytest.mark.slow
def test_each_group_of_methods_has_its_own_panel_and_best(monkeypatch):
    controls = [
        *on_pair("resnet8", control_shuffled=95.0, label_smoothing=94.0),
        *on_pair("resnet14", control_shuffled=85.0, label_smoothing=84.0),
    ]
    methods, apart = drawn(RECORDS + controls, monkeypatch)
    assert apart.get_title(loc="left") == "controls"
    assert {line.get_label() for line in apart.lines} == {"control_shuffled", "label_smoothing"}
    assert methods.lines[0].get_xdata().tolist()[:2] == [0.0, 0.0]


@pytest.mark.slow
def test_the_hash_depends_on_the_gaps():
    first, same = (profile.svg(table_from(RECORDS)) for _ in range(2))
    other = profile.svg(table_from([*RECORDS[:-1], *seeds("at", 81.5, student="resnet14")]))
    assert first == same
    assert data_hash(first) not in (None, data_hash(other))


def test_one_pair_has_no_profile():
    with pytest.raises(UserError, match="at least two pairs"):
        profile.svg(table_from(RECORDS[:3]))
