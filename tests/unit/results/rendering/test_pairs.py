"""The summary of a table over all its pairs: rows, ranks, and tables without a summary."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.written_records import record, seeds

from kd_bench.results.analysis.summary import Tally
from kd_bench.results.record import Metrics
from kd_bench.results.rendering.pairs import summarize
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError

METRICS = Metrics(
    top5=99.0,
    nll=0.5,
    ece=2.0,
    temperature=1.5,
    ece_scaled=1.0,
    kl=None,
    teacher_errors=None,
    per_class=[],
)


def on_pair(student, **accuracies):
    """Records of methods on a pair, each with equal seeds."""
    return [
        r for method, values in accuracies.items() for r in seeds(method, *values, student=student)
    ]


def one_each(student, **accuracies):
    return on_pair(student, **{method: [value] for method, value in accuracies.items()})


THREE = [
    *one_each("resnet8", baseline=90.0, st=91.0, at=92.0, dkd=91.04),
    *one_each("resnet14", baseline=80.0, st=82.0, at=81.0, dkd=82.04),
    *one_each("resnet32", baseline=70.0, st=73.0, at=69.0, dkd=74.0),
]


def standings(records):
    return summarize(table_from(records)).standings


def test_ranks_deltas_and_wins_of_three_pairs():
    found = standings(THREE)
    # at 0.1 points: st and dkd tie on the first two pairs
    assert {row: standing.rank for row, standing in found.items()} == {
        "baseline": pytest.approx((4 + 4 + 3) / 3),
        "st": pytest.approx((2.5 + 1.5 + 2) / 3),
        "at": pytest.approx((1 + 3 + 4) / 3),
        "dkd": pytest.approx((2.5 + 1.5 + 1) / 3),
    }
    assert found["st"].delta.mean == pytest.approx((1 + 2 + 3) / 3)
    assert found["at"].delta.mean == pytest.approx((2 + 1 - 1) / 3)
    # each pair three times has a probability of 1/27 = 3.7 %
    assert (found["st"].delta.low, found["st"].delta.high) == pytest.approx((1.0, 3.0))
    assert found["dkd"].against == Tally(wins=1, ties=2, losses=0)
    assert found["at"].against == Tally(wins=1, ties=0, losses=2)
    assert (found["st"].against, found["baseline"].delta) == (None, None)


def test_differences_are_paired_by_seed():
    records = [
        *on_pair("resnet8", baseline=[90.0, 92.0], st=[91.0, 93.0, 99.0]),
        *on_pair("resnet14", baseline=[80.0], st=[81.0, 50.0]),
    ]
    delta = standings(records)["st"].delta
    assert (delta.mean, delta.low, delta.high) == pytest.approx((1.0, 1.0, 1.0))


def test_a_row_that_is_missing_on_a_pair_is_left_out():
    found = summarize(table_from([*THREE, *one_each("resnet8", dml=99.0)]))
    assert found.left_out == ["dml"]
    assert found.standings["at"].rank == pytest.approx((1 + 3 + 4) / 3)


def test_only_rows_of_one_group_are_ranked_with_each_other():
    records = [
        *one_each("resnet8", baseline=90.0, st=91.0, control_shuffled=95.0),
        *one_each("resnet14", baseline=80.0, st=81.0, control_shuffled=85.0),
    ]
    found = standings(records)
    assert [found[row].rank for row in ("st", "baseline", "control_shuffled")] == [1.0, 2.0, 1.0]
    assert found["control_shuffled"].against == Tally(2, 0, 0)


def test_without_st_and_a_baseline_there_are_only_ranks():
    records = [*one_each("resnet8", at=90.0, dkd=91.0), *one_each("resnet14", at=80.0, dkd=81.0)]
    found = standings(records)
    assert [standing.rank for standing in found.values()] == [2.0, 1.0]
    assert all(s.delta is None and s.against is None for s in found.values())


def test_with_several_versions_of_st_there_is_no_comparison_with_it():
    hot = {"method.losses.st.temperature": 8}
    records = THREE + [
        record("st", accuracy=91.0, student=student, changed=hot)
        for student in ("resnet8", "resnet14", "resnet32")
    ]
    assert all(standing.against is None for standing in standings(records).values())


def with_likelihood(records):
    """Records whose negative log-likelihood is set to the accuracy."""
    return [replace(r, metrics=replace(METRICS, nll=r.accuracy.last)) for r in records]


def test_if_lower_is_better_the_lowest_has_the_first_rank():
    table = table_from(with_likelihood(THREE), metric="nll")
    found = summarize(table).standings
    assert found["baseline"].rank == pytest.approx((1 + 1 + 2) / 3)
    assert found["at"].rank == pytest.approx((4 + 2 + 1) / 3)
    assert found["at"].against == Tally(wins=2, ties=0, losses=1)
    assert found["at"].delta.mean == pytest.approx((2 + 1 - 1) / 3)  # with the table's sign


def test_a_cost_has_no_ranks():
    with pytest.raises(UserError, match="seconds is a cost"):
        summarize(table_from(THREE, metric="seconds"))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (THREE[:4], "at least two pairs, got only digits resnet20-resnet8"),
        ([*THREE, *seeds("st", 90.0, recipe="crd240")], "resnet20-resnet8 has several columns"),
        (one_each("resnet8", st=90.0) + one_each("resnet14", at=90.0), "no two methods"),
    ],
)
def test_a_table_without_pairs_to_compare_is_refused(records, reason):
    with pytest.raises(UserError, match=reason):
        summarize(table_from(records))
