"""Rendered tables of hand-written records: unequal seeds, failures, controls, ties."""

from __future__ import annotations

import pytest
from helpers.written_records import failure, record, seeds, taught_by

from kd_bench.results.rendering.caption import caption_sentences
from kd_bench.results.rendering.tables import to_rows
from kd_bench.results.table import table_from

BASELINE = seeds("baseline", 89.9, 90.0, 90.1)
TWO = seeds("baseline", 89.9, 90.1)
ONE = seeds("baseline", 90.0)


def pictured(records, failures=()) -> str:
    """A table as lines with cells separated by bars, and the best in angle brackets."""
    lines = to_rows(table_from(records, failures), bold="<{}>")
    return "\n".join(" | ".join(line).rstrip(" |") for line in lines)


def caption(records) -> str:
    return " ".join(caption_sentences(table_from(records)))


# name -> records, failures, the table
TABLES = {
    "one seed": (
        [*ONE, record("st", accuracy=91.0)],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 (1)
st | 91.0 (1) +1.0""",
    ),
    "two seeds": (
        [*TWO, *seeds("st", 91.0, 91.2)],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (2)
st | <91.1 ± 0.1 (2)> +1.1↑""",
    ),
    "a missing baseline": (
        [*seeds("st", 91.9, 92.0, 92.1), *seeds("at", 90.9, 91.0, 91.1)],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
at | 91.0 ± 0.1 (3)
st | <92.0 ± 0.1 (3)>""",
    ),
    "a failed seed, and unequal seeds": (
        [*BASELINE, *seeds("st", 91.9, 92.0, 92.1, 92.2), *seeds("at", 90.92, 91.12)],
        [failure(record("at"), 2)],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (3)
at | 91.0 ± 0.1 (2) +1.1↑, 1 failed
st | <92.0 ± 0.1 (4)> +2.0↑ (3 paired)""",
    ),
    "ties, and a negative difference": (
        [
            *BASELINE,
            *seeds("st", 91.0, 91.1, 91.2),
            *seeds("at", 91.2, 91.1, 91.0),
            *seeds("dkd", 88.9, 89.0, 89.1),
        ],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (3)
at | <91.1 ± 0.1 (3)> +1.1↑
dkd | 89.0 ± 0.1 (3) -1.0↓
st | <91.1 ± 0.1 (3)> +1.1↑""",
    ),
    "100 % everywhere": (
        [*seeds("baseline", 100.0, 100.0), *seeds("st", 100.0, 100.0)],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 100.0 ± 0.0 (2)
st | 100.0 ± 0.0 (2) 0.0""",
    ),
    "several recipes": (
        [
            *BASELINE,
            *seeds("st", 90.0, 90.1, 89.9),
            *seeds("baseline", 79.9, 80.0, 80.1, recipe="crd240"),
            *seeds("st", 84.9, 85.0, 85.1, recipe="crd240"),
        ],
        [],
        """\
method | digits resnet20-resnet8 (crd240) | digits resnet20-resnet8 (quickstart)
teacher | 96.1 | 96.1
baseline | 80.0 ± 0.1 (3) | 90.0 ± 0.1 (3)
st | <85.0 ± 0.1 (3)> +5.0↑ | 90.0 ± 0.1 (3) 0.0""",
    ),
    "controls, no teacher, no labels": (
        [
            *BASELINE,
            *seeds("st", 92.9, 93.0, 93.1),
            *seeds("at", 91.0, 91.1, 91.2),
            *seeds("lwm", 90.0, 90.1, 90.2),
            *seeds("label_smoothing", 90.9, 91.0, 91.1),
            *seeds("control_shuffled", 90.4, 90.5, 90.6),
        ],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (3)
at | 91.1 ± 0.1 (3) +1.1↑†
st | <93.0 ± 0.1 (3)> +3.0↑
no teacher:
lwm | 90.1 ± 0.1 (3) +0.1†
controls:
control_shuffled | 90.5 ± 0.1 (3) +0.5↑
label_smoothing | 91.0 ± 0.1 (3) +1.0↑""",
    ),
    # Variances 0.01, 0.01, 0.01 and 400: the last is neither pooled nor compared
    "a row that varies more than all others": (
        [
            *BASELINE,
            *seeds("st", 92.9, 93.0, 93.1),
            *seeds("at", 90.9, 91.0, 91.1),
            *seeds("dkd", 50.0, 70.0, 90.0),
        ],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (3)
at | 91.0 ± 0.1 (3) +1.0↑
dkd | 70.0 ± 20.0 (3) -20.0
st | <93.0 ± 0.1 (3)> +3.0↑""",
    ),
    "a row without labels": (
        [
            *BASELINE,
            *seeds("st", 92.9, 93.0, 93.1),
            *seeds("simkd", 94.9, 95.0, 95.1),
            *seeds("label_smoothing", 90.9, 91.0, 91.1),
        ],
        [],
        """\
method | digits resnet20-resnet8
teacher | 96.1
baseline | 90.0 ± 0.1 (3)
st | <93.0 ± 0.1 (3)> +3.0↑
no labels:
simkd | 95.0 ± 0.1 (3) +5.0↑
controls:
label_smoothing | 91.0 ± 0.1 (3) +1.0↑""",
    ),
    "crossed seeds of student and teacher": (
        [
            *TWO,
            *seeds("st", 90.0, 92.0),
            *seeds("st", 93.0, 93.0, changed={"teacher.seed": 1}),
            *seeds("st", 93.0, 97.0, changed={"teacher.seed": 2}),
        ],
        [],
        """\
method | digits resnet20-resnet8 | digits resnet20-resnet8 (teacher.seed=1) | \
digits resnet20-resnet8 (teacher.seed=2)
teacher | 96.1 | 96.1 | 96.1
baseline | 90.0 ± 0.1 (2) | 90.0 ± 0.1 (2) | 90.0 ± 0.1 (2)
st | 91.0 ± 1.4 (2) +1.0 | <93.0 ± 0.0 (2)> +3.0↑ | 95.0 ± 2.8 (2) +5.0""",
    ),
}


@pytest.mark.parametrize(("records", "failures", "table"), TABLES.values(), ids=TABLES)
def test_the_rendered_table_is(records, failures, table):
    assert pictured(records, failures) == table


def test_the_caption_explains_controls_and_their_mark():
    text = caption(TABLES["controls, no teacher, no labels"][0])
    assert "Methods under 'no teacher' train without these" in text
    assert "Controls are not methods" in text
    assert "†: not significantly better than the best control" in text
    assert "†" not in caption(BASELINE + seeds("st", 91.0, 91.1))


def test_the_caption_explains_rows_without_labels():
    text = caption(TABLES["a row without labels"][0])
    assert (
        "Methods under 'no labels' train without these and are ranked only among themselves."
        in text
    )


def test_the_caption_lists_a_row_that_is_neither_pooled_nor_tested():
    text = caption(TABLES["a row that varies more than all others"][0])
    assert "dkd varies more over the seeds than the other rows" in text
    assert "(SD of runs pooled over a column: 0.1, 6 degrees of freedom" in text
    assert "5 % for all 2 rows together" in text
    assert "varies more" not in caption(TABLES["a row without labels"][0])


def test_the_caption_has_the_standard_deviations_between_student_and_teacher_seeds():
    # [[90, 93, 93], [92, 93, 97]]: roots of the variances 4/3, 3 and 2 (see test_statistics)
    records = TABLES["crossed seeds of student and teacher"][0]
    assert (
        "Seeds of student and teacher are crossed in digits resnet20-resnet8 (2 × 3 seeds of st):"
        " SD 1.2 between seeds of the student, 1.7 between seeds of the teacher, 1.4 of the"
        " combination (two-way analysis of variance with random effects)."
    ) in caption(records)
    assert "Each column uses one teacher (one seed): its variance is not in the ±." in caption(
        records
    )


def test_a_variance_estimated_below_zero_is_shown_as_zero_with_a_note():
    records = [
        *seeds("st", 91.0, 89.0),
        *seeds("st", 89.0, 91.0, changed={"teacher.seed": 1}),
    ]
    text = caption(records)
    assert "SD 0.0 between seeds of the student, 0.0 between seeds of the teacher, 2.0 of" in text
    assert "below 0 is set to 0" in text


def test_seeds_that_are_not_crossed_have_no_such_sentence():
    apart = [record("st", 0), record("st", 1, changed={"teacher.seed": 1})]
    assert "crossed" not in caption(apart + BASELINE)


def test_rows_with_their_own_teachers_are_listed_in_the_caption():
    first, second, third = (record(student="resnet20", seed=seed) for seed in range(3))
    records = [*BASELINE, record("at"), taught_by(first, second, third, method="st")]
    text = caption(records)
    assert "except for rows with teachers of their own: st (3 teachers)" in text


def test_a_single_method_is_not_corrected_for():
    text = caption([*BASELINE, *seeds("st", 92.0, 92.1)])
    assert "mark significant differences (5 %);" in text
    assert "in any of them" not in text
