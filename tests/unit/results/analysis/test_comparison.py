"""Rows of a column that are significant, best, or not shown to be above a control."""

from __future__ import annotations

from kd_bench.results.analysis.budget import Budget
from kd_bench.results.analysis.comparison import Mean, compare
from kd_bench.results.analysis.groups import Group, Kind
from kd_bench.results.analysis.statistics import Pooled

# Half width of a difference of three seeds each at 60 df: 2.000 * 0.1 * sqrt(2/3) = 0.163;
# at level 0.05 / 3 quantile 2.463: 0.201; at 0.05 / 2, quantile 2.299: 0.188.
SMALL = Pooled(0.1, 60)
PLAIN, CONTROL = Group(), Group(Kind.CONTROL)
TWO_VIEWS = Group(budget=Budget(2.0))


def verdicts(groups=None, **values):
    """Verdicts on rows of three seeds each, with differences from the baseline if there is one."""
    means = {row: Mean(value, 3) for row, value in values.items()}
    start = values.get("baseline")
    deltas = {
        row: Mean(value - start, 3)
        for row, value in values.items()
        if start is not None and row != "baseline"
    }
    return compare(means, deltas, {row: (groups or {}).get(row, PLAIN) for row in values}, SMALL)


def test_effects_are_corrected_for_the_number_of_methods():
    assert verdicts(baseline=90.0, st=90.18).effects == {"st": 1}
    assert verdicts(baseline=90.0, st=90.18, at=90.0, sp=90.0).effects == {}
    assert verdicts(baseline=90.0, st=90.25, at=89.75, sp=90.0).effects == {"st": 1, "at": -1}


def test_methods_of_all_groups_are_corrected_together():
    groups = {"at": TWO_VIEWS, "noise": CONTROL}
    assert verdicts(groups, baseline=90.0, st=90.18, at=90.0, noise=90.0).effects == {}


def test_the_best_row_and_those_not_significantly_worse_are_best():
    assert verdicts(baseline=90.0, st=91.0, at=90.9, sp=90.5).best == {"st", "at"}


def test_only_rows_above_the_baseline_can_be_best():
    assert verdicts(baseline=90.0, st=90.1, at=89.0).best == set()
    assert verdicts(baseline=90.0, st=89.0).best == set()


def test_without_a_baseline_the_best_has_to_differ_from_another_row():
    assert verdicts(st=91.0, at=90.0).best == {"st"}
    assert verdicts(st=91.0, at=91.1).best == set()


def test_pairs_of_rows_are_corrected_for_the_number_of_pairs():
    # 0.19 between two; among four there are six pairs
    assert verdicts(baseline=90.0, st=92.0, at=91.81).best == {"st"}
    two_more = {"sp": 92.0, "cc": 92.0}
    assert verdicts(baseline=90.0, st=92.0, at=91.81, **two_more).best == {"st", "at", "sp", "cc"}


def test_controls_are_never_the_best_and_methods_must_be_above_all_of_them():
    groups = {"smooth": CONTROL, "noise": CONTROL}
    found = verdicts(groups, baseline=90.0, smooth=92.0, noise=80.0, st=91.0, at=92.1, sp=92.5)
    assert found.best == {"sp"}
    assert found.unproven == {"st", "at"}  # not the baseline
    assert not verdicts(baseline=90.0, st=89.0).unproven


def test_the_only_row_of_a_group_is_not_marked_as_best():
    assert verdicts({"at": TWO_VIEWS}, baseline=90.0, at=95.0).best == set()


def test_there_are_no_verdicts_without_a_standard_deviation():
    found = compare({"st": Mean(1.0, 1)}, {"st": Mean(1.0, 1)}, {"st": PLAIN}, None)
    assert (found.effects, found.best, found.unproven) == ({}, set(), set())
