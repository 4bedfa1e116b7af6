"""The plot of accuracy against a swept value: its curves and their drawing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from helpers.written_records import record, seeds
from matplotlib.figure import Figure

from kd_bench.results.figures import swept_values
from kd_bench.results.figures.svg import data_hash
from kd_bench.results.figures.swept_values import Curve
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError

TEMPERATURE, CE = "method.losses.st.temperature", "method.weights.ce"
BASELINE = seeds("baseline", 89.0, 90.0, 91.0)
SWEPT = [
    *seeds("st", 92.0, 93.0, 94.0),  # temperature 4, the default
    *seeds("st", 91.0, 92.0, changed={TEMPERATURE: 1}),
    *seeds("st", 90.0, 91.0, changed={TEMPERATURE: 16}),
]


def panels(records):
    return swept_values.panels(table_from(records))


def test_the_curve_includes_the_default_and_every_seed():
    (panel,) = panels(BASELINE + SWEPT + seeds("at", 95.0))
    assert (panel.title, panel.value) == ("digits resnet20-resnet8: st", TEMPERATURE)
    assert panel.baseline == 90.0
    points = {1.0: {0: 91.0, 1: 92.0}, 4.0: {0: 92.0, 1: 93.0, 2: 94.0}, 16.0: {0: 90.0, 1: 91.0}}
    assert panel.curves == [Curve("", points)]


def test_each_swept_key_has_a_panel_with_a_curve_per_value_of_the_others():
    halves = [record("st", changed={CE: 0.5, TEMPERATURE: t}, accuracy=80.0 + t) for t in (1, 16)]
    by_temperature, by_weight = panels(SWEPT + halves)
    assert [(c.label, list(c.points)) for c in by_temperature.curves] == [
        ("weights.ce=0.5", [1.0, 16.0]),
        ("weights.ce=1", [1.0, 4.0, 16.0]),
    ]
    assert [(c.label, list(c.points)) for c in by_weight.curves] == [
        ("losses.st.temperature=1", [0.5, 1.0]),
        ("losses.st.temperature=16", [0.5, 1.0]),
    ]


def test_each_column_has_a_panel():
    records = SWEPT + seeds("st", 80.0, dataset="svhn")
    records += seeds("st", 81.0, dataset="svhn", changed={TEMPERATURE: 1})
    assert [panel.title.split()[0] for panel in panels(records)] == ["digits", "svhn"]


@pytest.mark.slow
def test_means_seeds_and_the_baseline_are_drawn(monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k))
    text = swept_values.svg(table_from(BASELINE + SWEPT))
    (axis,) = figures[0].axes
    curve, dots, baseline = axis.lines
    assert list(curve.get_xdata()) == [1.0, 4.0, 16.0]
    assert list(curve.get_ydata()) == [91.5, 93.0, 90.5]
    assert sorted(dots.get_ydata()) == [90.0, 91.0, 91.0, 92.0, 92.0, 93.0, 94.0]
    assert list(baseline.get_ydata()) == [90.0, 90.0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "4", "16"]
    assert axis.get_xscale() == "log"
    assert data_hash(text) != data_hash(swept_values.svg(table_from(SWEPT)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x_{$", "<img src=x>", "\x1b[2J", "two\nlines"])
def test_any_name_is_shown_as_text(name):
    path = f"method.losses.st.{name}"
    records = [record("st", changed={path: value, CE: value}) for value in (1, 2)]
    records += [record("st", changed={path: 3, CE: 2})]
    picture = swept_values.svg(table_from(records))
    ElementTree.fromstring(picture)
    assert "<img" not in picture
    assert "\x1b" not in picture


@pytest.mark.parametrize(
    "changes",
    [[], [{"method.losses.st._target_": "my.Loss"}], [{"recipe.lr": 0.1}]],
    ids=["nothing", "a string", "a value of the recipe"],
)
def test_without_a_number_that_differs_between_rows_there_is_nothing_to_plot(changes):
    records = [record("st"), *(record("st", changed=change) for change in changes)]
    with pytest.raises(UserError, match=r"no swept value.*temperature=1,2,4"):
        swept_values.svg(table_from(records))
