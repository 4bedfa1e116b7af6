"""Columns with crossed seeds of student and teacher, and their variances by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.written_records import failure, record, seeds

from kd_bench.results.table import table_from

OTHER_TEACHER = {"teacher.seed": 1}
# Rows are seeds of the student: [[90, 93], [92, 91]]. Means 91.5 and 91.5, 91 and 92, all 91.5;
# residuals -1, 1, 1, -1, so `both` is 4; student (0 - 4) / 2, teacher (2 * 0.5 - 4) / 2.
ST = [*seeds("st", 90.0, 92.0), *seeds("st", 93.0, 91.0, changed=OTHER_TEACHER)]
# [[80, 84], [82, 86]]: no residuals; student 2 * (1 + 1) / 1 / 2, teacher 2 * (4 + 4) / 1 / 2
AT = [*seeds("at", 80.0, 82.0), *seeds("at", 84.0, 86.0, changed=OTHER_TEACHER)]


def crossed(records, failures=()):
    return table_from(records, failures).crossed


def parts(found):
    variances = found.variances
    return variances.student, variances.teacher, variances.both


def test_the_variances_of_one_method():
    (found,) = crossed(ST)
    assert parts(found) == pytest.approx((-2.0, -1.5, 4.0))
    assert (found.rows, found.sizes) == (["st"], [(2, 2)])
    assert found.label == "digits resnet20-resnet8"


def test_variances_of_several_methods_are_averaged():
    (found,) = crossed(ST + AT)
    assert parts(found) == pytest.approx(((-2 + 2) / 2, (-1.5 + 8) / 2, (4 + 0) / 2))
    assert found.rows == ["at", "st"]


def test_only_student_seeds_with_all_teachers_count():
    more = [record("st", 2, 50.0), record("st", 3, 60.0, changed=OTHER_TEACHER)]
    (found,) = crossed(ST + more)
    assert (found.sizes, parts(found)) == ([(2, 2)], pytest.approx((-2.0, -1.5, 4.0)))


def test_a_method_with_one_teacher_is_not_crossed():
    (found,) = crossed(ST + seeds("at", 80.0, 82.0))
    assert found.rows == ["st"]
    assert crossed(seeds("st", 90.0, 92.0)) == []


def test_one_seed_of_the_student_is_not_enough():
    assert crossed([record("st"), record("st", changed=OTHER_TEACHER)]) == []


def test_failed_runs_are_not_crossed():
    failed = failure(ST[-1], 1, is_known=True)
    assert crossed(ST[:-1], [failed]) == []


def test_teachers_that_differ_in_more_than_their_seed_are_not_crossed():
    records = [
        *seeds("st", 90.0, 92.0),
        *seeds("st", 93.0, 91.0, changed={"teacher.recipe.lr": 1.0}),
    ]
    assert crossed(records) == []


def test_each_pair_has_its_own_variances():
    on_another = [
        *seeds("st", 80.0, 82.0, student="resnet14"),
        *seeds("st", 84.0, 86.0, student="resnet14", changed=OTHER_TEACHER),
    ]
    found = {each.label: parts(each) for each in crossed(ST + on_another)}
    assert found["digits resnet20-resnet8"] == pytest.approx((-2.0, -1.5, 4.0))
    assert found["digits resnet20-resnet14"] == pytest.approx((2.0, 8.0, 0.0))


def test_students_of_ensembles_are_not_crossed():
    of_several = [replace(r, identity=r.identity | {"taught_by": ["a", "b"]}) for r in ST]
    assert crossed(of_several) == []
