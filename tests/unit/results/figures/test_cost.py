"""The figure of accuracy against cost: its points, and the Pareto frontier."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.written_records import record, seeds
from matplotlib.figure import Figure

from kd_bench.results.figures import cost
from kd_bench.results.figures.cost import Point
from kd_bench.results.figures.svg import data_hash
from kd_bench.results.record import Metrics
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError

RECORDS = [
    record("baseline", 0, 90.0, seconds=10.0),
    record("baseline", 1, 91.0, seconds=20.0),
    *seeds("st", 93.0, 94.0, seconds=30.0),
    *seeds("at", 92.0, 92.0, seconds=40.0),
    *seeds("dkd", 94.0, 96.0, seconds=50.0),
    *seeds("control_shuffled", 99.0, 99.0, seconds=12.0),
]


def tables(records, metric="last", of_cost="seconds"):
    return table_from(records, metric=metric), cost.recorded(table_from(records, metric=of_cost))


def points(records, **settings):
    table, costs = tables(records, **settings)
    return cost.points(table, costs, table.columns[0])


def drawn(records, monkeypatch):
    """The panels of a figure, as matplotlib objects."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: figures.append(f) or save(f, *a, **k))
    cost.svg(*tables(records))
    return figures[0].axes


def test_a_point_has_means_and_the_range_of_the_seeds():
    found = {point.row: point for point in points(RECORDS)}
    assert found["baseline"] == Point("baseline", 15.0, 90.5, 90.0, 91.0, is_control=False)
    assert found["control_shuffled"].is_control


def test_the_frontier_has_methods_that_no_cheaper_method_beats_and_no_controls():
    found = points(RECORDS)
    assert [point.row for point in cost.frontier(found, better=1)] == ["baseline", "st", "dkd"]


def test_if_lower_is_better_the_frontier_has_the_lowest_values():
    found = [
        Point(row, seconds, mean, mean, mean, False)
        for row, seconds, mean in (("a", 1, 0.5), ("b", 2, 0.6), ("c", 3, 0.4))
    ]
    assert [point.row for point in cost.frontier(found, better=-1)] == ["a", "c"]


def test_of_equal_costs_only_the_best_is_on_the_frontier():
    records = [*seeds("st", 93.0, seconds=5.0), *seeds("at", 92.0, seconds=5.0)]
    assert [point.row for point in cost.frontier(points(records), better=1)] == ["st"]


def test_if_lower_is_better_the_best_of_equal_costs_is_the_lowest():
    some = Metrics(
        top5=None,
        nll=0.4,
        ece=1.0,
        temperature=None,
        ece_scaled=None,
        kl=None,
        teacher_errors=None,
        per_class=[],
    )
    records = [
        *seeds("st", 93.0, seconds=5.0, metrics=some),
        *seeds("at", 92.0, seconds=5.0, metrics=replace(some, nll=0.3)),
    ]
    found = points(records, metric="nll")
    assert [point.row for point in cost.frontier(found, better=-1)] == ["at"]


@pytest.mark.slow
def test_points_are_drawn_and_labelled(monkeypatch):
    (panel,) = drawn(RECORDS, monkeypatch)
    step = panel.lines[0]
    assert list(step.get_xdata()) == [15.0, 30.0, 50.0]
    assert list(step.get_ydata()) == [90.5, 93.5, 95.0]
    assert step.get_drawstyle() == "steps-post"
    names = {text.get_text() for text in panel.texts}
    assert names == {"baseline", "st", "at", "dkd", "control_shuffled"}
    assert panel.get_xlabel() == "seconds of training, mean of a run (crosses: controls)"


@pytest.mark.slow
def test_of_many_points_only_frontier_baseline_and_costliest_are_labelled(monkeypatch):
    monkeypatch.setattr(cost, "ALL_NAMED", 4)
    (panel,) = drawn([*RECORDS, *seeds("rkd", 91.0, seconds=60.0)], monkeypatch)
    assert {text.get_text() for text in panel.texts} == {"baseline", "st", "dkd", "rkd"}


@pytest.mark.slow
def test_costs_of_different_magnitudes_are_on_a_logarithmic_scale(monkeypatch):
    (near,) = drawn(RECORDS, monkeypatch)
    (far,) = drawn([*RECORDS, *seeds("dml", 90.0, seconds=120.0)], monkeypatch)
    assert (near.get_xscale(), far.get_xscale()) == ("linear", "log")


@pytest.mark.slow
def test_the_hash_depends_on_accuracies_and_costs():
    slower = [*RECORDS[:-1], record("control_shuffled", 1, 99.0, seconds=13.0)]
    hashes = [data_hash(cost.svg(*tables(each))) for each in (RECORDS, RECORDS, slower)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert None not in hashes


def test_a_cost_against_a_cost_is_refused():
    with pytest.raises(UserError, match="memory is itself a cost; choose another --metric"):
        cost.svg(*tables(RECORDS, metric="memory"))


def test_measured_costs_are_those_of_the_rows_methods_and_of_their_pair(tmp_path):
    steps = {"st": 1.0, "at": 1.25, "rkd": 2.0}
    methods = {name: {"step_to_st": {"median": step}} for name, step in steps.items()}
    (tmp_path / "c.json").write_text(json.dumps({"pair": "resnet20-resnet8", "methods": methods}))
    records = [*seeds("st", 93.0), *seeds("st", 94.0, student="resnet14"), *seeds("at", 92.0)]
    table = table_from(records)
    found = cost.measured(tmp_path / "c.json", table)
    (column,) = (each.label for each in table.columns if each.pair == "resnet20-resnet8")
    assert dict(found.of) == {("st", column): 1.0, ("at", column): 1.25}


@pytest.mark.parametrize("content", ["{}", "[]", "[", '{"pair": "a", "methods": {"st": {}}}'])
def test_a_file_without_measured_costs_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=r"c\.json is not a measurement of tools/method_cost\.py"):
        cost.measured(tmp_path / "c.json", table_from(RECORDS))
