"""The results table says what its records say, and refuses what no average may hold."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.written_records import record, seeds, teacher_record, write
from hypothesis import given, settings, strategies

from kd_bench.results import markdown
from kd_bench.results.caption import caption_sentences, caveats
from kd_bench.results.labels import natural_key, short_name
from kd_bench.results.render import FORMATS, cell_text, render, to_rows
from kd_bench.results.statistics import Pooled, half_width, pooled
from kd_bench.results.store import read_failures, read_records
from kd_bench.results.table import Cell, Delta, table_from
from kd_bench.utils.errors import UserError

DIGITS = "digits resnet20-resnet8"

# Means 90 and 92; SD 1 each: the deviations are -1, 0, 1, so SD = sqrt(2 / 2).
BASELINE = seeds("baseline", 89.0, 90.0, 91.0)
SOFT = seeds("st", 91.0, 92.0, 93.0)


def tool(name: str):
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(table) -> dict[str, list[str]]:
    """A table's cells as text, by row."""
    return {row: cells for row, *cells in to_rows(table, bold="<{}>")}


# Intervals


def test_the_pooled_deviation_weighs_cells_by_their_degrees_of_freedom():
    # [1, 3]: squares 1 + 1 = 2, df 1. [0, 3, 6]: squares 9 + 0 + 9 = 18, df 2. [7]: df 0.
    # sd = sqrt((2 + 18) / (1 + 2))
    result = pooled([[1, 3], [0, 3, 6], [7]])
    assert result.sd == pytest.approx(math.sqrt(20 / 3))
    assert result.df == 3


def test_there_is_no_pooled_deviation_of_single_runs():
    assert pooled([[1.0], [2.0], []]) is None


def test_the_interval_of_a_difference_is_that_of_the_t_table():
    # two-sided 95 % quantiles from a printed table: 2.776 at 4 degrees of freedom, 12.706 at 1
    assert half_width(Pooled(0.2, 4), 3, 3) == pytest.approx(
        2.776 * 0.2 * math.sqrt(2 / 3), rel=1e-3
    )
    assert half_width(Pooled(1.0, 1), 1, 4) == pytest.approx(12.706 * math.sqrt(1.25), rel=1e-3)


# Cells


def test_a_cell_is_mean_sample_deviation_and_number_of_runs():
    cell = table_from(BASELINE + SOFT).cells["st", DIGITS]
    assert (cell.mean, cell.sd, cell.n) == (92.0, 1.0, 3)  # deviations -1, 0, 1; (1 + 1) / 2 = 1


def test_a_delta_is_the_mean_over_the_seeds_that_both_have():
    # seeds 1 and 2 are in both: (95 - 90 + 93 - 91) / 2 = 3.5; seed 7 has no partner
    methods = [record("st", 1, 95.0), record("st", 2, 93.0), record("st", 7, 50.0)]
    delta = table_from(BASELINE + methods).cells["st", DIGITS].delta
    assert (delta.mean, delta.pairs) == (3.5, 2)


def test_a_delta_has_the_interval_of_the_pooled_deviation_of_runs():
    # both SD 1: pooled SD 1 with 2 + 2 degrees of freedom; t = 2.776; sqrt(1/3 + 1/3)
    delta = table_from(BASELINE + SOFT).cells["st", DIGITS].delta
    assert delta.mean == 2.0
    assert delta.half_width == pytest.approx(2.776 * math.sqrt(2 / 3), rel=1e-3)


def test_without_a_second_seed_anywhere_a_delta_has_no_interval():
    delta = (
        table_from([record(accuracy=90.0), record("st", accuracy=91.0)]).cells["st", DIGITS].delta
    )
    assert (delta.mean, delta.half_width) == (1.0, None)


def test_methods_without_a_common_seed_have_no_delta():
    assert table_from([record(seed=0), record("st", 1)]).cells["st", DIGITS].delta is None


@pytest.mark.parametrize(
    "cell, text",
    [
        (Cell({0: 93.0, 1: 94.0, 2: 95.0}), "94.0 ± 1.0 (3)"),
        (Cell({0: 93.9}), "93.9 (1)"),
        (Cell({0: 93.9}, delta=Delta(-0.31, 1, None)), "93.9 (1) -0.3"),
        (Cell({0: 93.0, 1: 95.0}, failed=1), "94.0 ± 1.4 (2), 1 failed"),  # sqrt(2) = 1.41
        (
            Cell({0: 93.0, 1: 95.0}, 1, Delta(1.1, 1, 2.0)),
            "94.0 ± 1.4 (2) +1.1 (1 paired), 1 failed",
        ),
        (Cell({0: 93.9}, delta=Delta(-0.02, 1, None), bold=True), "<93.9 (1)> 0.0"),
        (Cell({}, failed=3), "failed"),
        (None, ""),
    ],
)
def test_a_cell_shows_its_n_and_no_deviation_of_one_run(cell, text):
    assert cell_text(cell, digits=1, bold="<{}>") == text


@pytest.mark.parametrize("images, text", [(1999, "90.0 ± 1.0 (3)"), (2000, "90.00 ± 1.00 (3)")])
def test_small_test_sets_show_one_decimal_for_one_image_is_more_than_the_second(images, text):
    table = table_from(seeds("baseline", 89.0, 90.0, 91.0, test_images=images))
    assert lines(table)["baseline"] == [text]


def test_the_metric_is_the_last_epoch_unless_asked_for():
    records = [record(accuracy=90.0, best=91.0, best_val=90.5)]
    means = [
        table_from(records, metric=metric).cells["baseline", "digits resnet8"].mean
        for metric in ("last", "best", "best-val")
    ]
    assert means == [90.0, 91.0, 90.5]


def test_the_best_test_epoch_is_named_as_selected_on_the_test_set():
    heading, *_ = to_rows(table_from(BASELINE + SOFT, metric="best"))
    assert heading == ["method", f"{DIGITS}, best (test-selected)"]
    assert "test-selected" in caption_sentences(table_from(BASELINE, metric="best"))[0]


def test_best_by_validation_is_refused_where_nothing_was_held_out():
    with pytest.raises(UserError, match=r"best-val.*choose last"):
        table_from(BASELINE, metric="best-val")


def test_an_unknown_metric_is_answered_with_those_there():
    with pytest.raises(UserError, match="no metric 'first'; there are last, best, best-val"):
        table_from(BASELINE, metric="first")


# Bold


def test_the_best_and_all_that_is_not_told_from_it_are_bold():
    # Every SD is 0.1, pooled 0.1 with 4 * 2 = 8 degrees of freedom: t = 2.306,
    # half width 2.306 * 0.1 * sqrt(2 / 3) = 0.188. at is 0.1 below dkd, st is 0.3 below.
    records = [
        *seeds("baseline", 89.9, 90.0, 90.1),
        *seeds("st", 91.6, 91.7, 91.8),
        *seeds("at", 91.8, 91.9, 92.0),
        *seeds("dkd", 91.9, 92.0, 92.1),
    ]
    table = table_from(records)
    assert {row for (row, _), cell in table.cells.items() if cell.bold} == {"at", "dkd"}


def test_nothing_is_bold_where_nothing_is_told_apart():
    # 92 - 90 = 2 is within 2.776 * 1 * sqrt(2 / 3) = 2.27
    table = table_from(BASELINE + SOFT)
    assert not any(cell.bold for cell in table.cells.values())
    assert any(
        "the seeds tell no method from the best" in text for text in caption_sentences(table)
    )


def test_nothing_is_bold_without_a_deviation():
    table = table_from([record(accuracy=50.0), record("st", accuracy=90.0)])
    assert not any(cell.bold for cell in table.cells.values())
    assert any(
        "nothing tells how far it may be chance" in text for text in caption_sentences(table)
    )


def test_a_single_run_is_compared_by_the_deviation_of_the_others():
    # pooled SD 1 with 2 degrees of freedom: t = 4.303; half width 4.303 * sqrt(1 + 1/3) = 4.97
    def bold(accuracy: float) -> set[str]:
        table = table_from([*BASELINE, record("st", accuracy=accuracy)])
        return {row for (row, _), cell in table.cells.items() if cell.bold}

    assert bold(90.0 + 5.1) == {"st"}
    assert bold(90.0 + 4.8) == set()


# Rows and columns


def test_changed_values_of_the_method_stand_in_the_row():
    records = [
        record("st"),
        record("st", changed={"method.losses.st.temperature": 16}),
        record("st", changed={"method.losses.st.temperature": 8}),
        record("st", changed={"method.losses.st.temperature": 8, "method.weights.ce": 0.5}),
    ]
    assert list(table_from(records).rows) == [
        "st",
        "st (temperature=8)",
        "st (temperature=8, ce=0.5)",
        "st (temperature=16)",
    ]


def test_a_changed_value_is_named_by_as_much_of_its_path_as_makes_it_unique():
    paths = ["losses", "losses.a", "losses.a.power", "losses.b", "losses.b.power", "weights.a"]
    assert short_name("losses.a.power", paths) == "a.power"
    assert short_name("weights.a", paths) == "weights.a"  # there is losses.a too
    assert short_name("weights.ce", paths) == "ce"


def test_numbers_in_names_sort_as_numbers():
    assert sorted(["resnet110", "resnet20", "resnet8"], key=natural_key) == [
        "resnet8",
        "resnet20",
        "resnet110",
    ]


def test_the_baseline_comes_first_then_the_order_given_then_names():
    records = [record(name) for name in ("st", "dkd", "at", "baseline")]
    assert list(table_from(records).rows) == ["baseline", "at", "dkd", "st"]
    assert list(table_from(records, order=["st"]).rows) == ["baseline", "st", "at", "dkd"]


def test_a_baseline_stands_in_every_column_of_its_student_and_recipe():
    records = [
        record(accuracy=90.0),
        record("st", accuracy=91.0),
        record("st", accuracy=93.0, teacher="resnet110"),
        record("st", accuracy=80.0, recipe="crd240"),
        record("st", accuracy=70.0, student="resnet14"),
    ]
    table = table_from(records)
    there = [column.label for column in table.columns if "baseline" in table.under(column)]
    assert there == [f"{DIGITS} (quickstart)", "digits resnet110-resnet8 (quickstart)"]
    # resnet20-resnet8 by crd240 and by quickstart, resnet20-resnet14, resnet110-resnet8, average
    expected = ["80.0 (1)", "91.0 (1) +1.0", "70.0 (1)", "93.0 (1) +3.0", "83.5"]
    assert lines(table)["st"] == expected


def test_a_method_whose_teacher_learns_along_stands_in_every_column_of_its_pair():
    records = [
        record(accuracy=90.0),
        record("st", accuracy=91.0),
        record("st", accuracy=92.0, changed={"teacher.seed": 1}),
        record("dml", accuracy=93.0, teacher_accuracy=50.0, changed={"teacher.seed": 1}),
        record("dml", accuracy=94.0, teacher="resnet110", teacher_accuracy=50.0),
    ]
    assert lines(table_from(records)) == {
        "method": [
            DIGITS,
            f"{DIGITS} (teacher.seed=1)",
            "digits resnet110-resnet8",
            "average",
        ],
        "teacher": ["96.1", "96.1", "", ""],
        "baseline": ["90.0 (1)", "90.0 (1)", "90.0 (1)", "90.0"],
        "dml": ["93.0 (1) +3.0", "93.0 (1) +3.0", "94.0 (1) +4.0", "93.3 +3.3"],  # 280 / 3
        "st": ["91.0 (1) +1.0", "92.0 (1) +2.0", "", ""],
    }


@pytest.mark.parametrize(
    "changed, column",
    [
        ({"recipe.epochs": 5}, f"{DIGITS} (epochs=5)"),
        ({"dataset.pad": 2}, f"{DIGITS} (pad=2)"),
        ({"model.net.width": 16}, f"{DIGITS} (width=16)"),
        ({"teacher.seed": 1}, f"{DIGITS} (teacher.seed=1)"),
        ({"teacher.recipe.epochs": 2}, f"{DIGITS} (teacher.epochs=2)"),
        ({"dataset.source.root": "elsewhere"}, DIGITS),  # where images lie changes nothing
    ],
)
def test_what_was_changed_outside_the_method_stands_in_the_column(changed, column):
    assert [c.label for c in table_from([record("st", changed=changed)]).columns] == [column]


def test_runs_of_different_jobs_stand_in_different_columns_even_if_nothing_was_changed():
    shorter = record("st", accuracy=80.0, changed={"recipe.epochs": 5}) | {"changed": {}}
    table = table_from([record("st", accuracy=91.0), shorter])
    assert {c.label: table.cells["st", c.label].mean for c in table.columns} == {
        f"{DIGITS} (recipe.epochs=5)": 80.0,
        f"{DIGITS} (recipe.epochs=20)": 91.0,
    }


def test_speed_modes_are_different_columns():
    table = table_from([record("st"), record("st", speed="reference")])
    assert [c.label for c in table.columns] == [f"{DIGITS} (reference)", f"{DIGITS} (repro)"]


def test_a_run_that_is_merely_a_teacher_makes_no_column_unless_asked_for():
    student = record("st")
    records = [record(), student, teacher_record(student)]
    assert [c.label for c in table_from(records).columns] == [DIGITS]
    asked = table_from(records, choice={"pair": ["none-resnet20"]})
    assert lines(asked) == {"method": ["digits resnet20"], "baseline": ["96.1 (1)"]}


def test_baselines_alone_make_columns():
    records = [record(), record(student="resnet20")]
    assert [c.label for c in table_from(records).columns] == ["digits resnet8", "digits resnet20"]


def test_the_teacher_stands_on_top_without_a_deviation():
    assert lines(table_from(BASELINE + SOFT))["teacher"] == ["96.1"]


def test_the_average_is_over_all_columns_and_of_complete_rows():
    # baseline (90 + 80) / 2; st (92 + 81) / 2 with deltas (2 + 1) / 2; at has no second column
    records = [
        record(accuracy=90.0),
        record("st", accuracy=92.0),
        record("at", accuracy=91.0),
        record(accuracy=80.0, dataset="svhn"),
        record("st", accuracy=81.0, dataset="svhn", teacher_accuracy=90.1),
    ]
    table = lines(table_from(records))
    assert {row: cells[-1] for row, cells in table.items()} == {
        "method": "average",
        "teacher": "93.1",  # (96.1 + 90.1) / 2
        "baseline": "85.0",
        "at": "",
        "st": "86.5 +1.5",
    }


# What is refused


def test_a_cell_never_averages_jobs_that_differ_in_more_than_the_seed():
    edited = record("st", 1, changed={"method.losses.st.temperature": 8}) | {"changed": {}}
    with pytest.raises(UserError) as error:
        table_from([record("st", 0), edited])
    assert str(error.value) == (
        f"st in {DIGITS} has runs that differ in more than the seed:"
        f" method.losses.st.temperature is 4 in {record('st', 0)['folder']},"
        f" 8 in {edited['folder']}; move away those that should not count"
    )


def test_a_seed_stands_once_in_a_cell():
    with pytest.raises(UserError, match=r"st in .* has seed 0 more than once: .*seed0, .*seed0"):
        table_from([record("st", 0, 90.0), record("st", 0, 91.0)])


def test_runs_that_saw_other_images_are_not_compared():
    with pytest.raises(UserError, match="saw different images"):
        table_from([record(), record("st", data_fingerprint="other images")])


def test_no_records_make_no_table():
    with pytest.raises(UserError, match="no records"):
        table_from([])


# Filters


@pytest.mark.parametrize(
    "choice, columns, rows",
    [
        ({}, [DIGITS, "svhn resnet20-resnet8"], ["baseline", "at", "st"]),
        ({"dataset": ["svhn"]}, ["svhn resnet20-resnet8"], ["baseline", "st"]),
        ({"method": ["st"]}, [DIGITS, "svhn resnet20-resnet8"], ["baseline", "st"]),
        ({"method": ["st", "at"]}, [DIGITS, "svhn resnet20-resnet8"], ["baseline", "st", "at"]),
        (
            {"dataset": ["svhn", "digits"]},
            ["svhn resnet20-resnet8", DIGITS],
            ["baseline", "at", "st"],
        ),
    ],
)
def test_a_choice_shows_what_it_names_in_its_order_and_always_the_baseline(choice, columns, rows):
    records = [
        record(),
        record("st"),
        record("at"),
        record(dataset="svhn"),
        record("st", dataset="svhn"),
    ]
    table = table_from(records, choice=choice)
    assert ([c.label for c in table.columns], list(table.rows)) == (columns, rows)


def test_a_pair_is_shown_with_the_baseline_of_its_student():
    records = [record(), record("st"), record("st", teacher="resnet110")]
    table = table_from(records, choice={"pair": ["resnet110-resnet8"]})
    assert list(table.cells) == [
        ("baseline", "digits resnet110-resnet8"),
        ("st", "digits resnet110-resnet8"),
    ]


@pytest.mark.parametrize(
    "kind, there",
    [
        ("dataset", "digits"),
        ("pair", "resnet20-resnet8"),
        ("method", "baseline, st"),
        ("recipe", "quickstart"),
        ("student", "resnet8"),
    ],
)
def test_an_unknown_choice_is_answered_with_what_is_there(kind, there):
    with pytest.raises(UserError) as error:
        table_from(BASELINE + SOFT, choice={kind: ["nonsense"]})
    assert str(error.value) == f"no records of {kind} 'nonsense'; there are {there}"


# Failed jobs


def failure(of: dict, seed: int) -> dict:
    """A failed job with the values of another."""
    job = of["folder"].rpartition("/")[0]
    return {"folder": f"{job}/seed{seed}", "reason": "FloatingPointError: loss is nan"}


def test_a_failed_seed_is_counted_in_its_cell():
    table = table_from(BASELINE + SOFT[:2], [failure(SOFT[0], 2)])
    assert lines(table)["st"] == ["91.5 ± 0.7 (2) +2.0, 1 failed"]  # SD sqrt(2) / 2 = 0.71


def job_of(of: dict) -> dict:
    """What a failure carries of its job."""
    return {key: of[key] for key in ("identity", "config", "changed")}


def test_a_job_that_always_failed_has_a_row_that_says_so():
    changed = record("st", changed={"method.losses.st.temperature": 8})
    failures = [
        failure(each, seed) | job_of(each) for each in (changed, record("at")) for seed in (0, 1)
    ]
    table = lines(table_from(BASELINE + SOFT, failures))
    assert table["st"] == ["92.0 ± 1.0 (3) +2.0"]
    assert table["st (temperature=8)"] == ["failed"]
    assert table["at"] == ["failed"]


def test_a_failed_baseline_stands_in_every_column_of_its_student():
    job = record()
    table = table_from([*SOFT, record("st", teacher="resnet110")], [failure(job, 0) | job_of(job)])
    assert lines(table)["baseline"] == ["failed", "failed", ""]  # and no average


def test_a_failure_whose_job_is_unknown_is_named_beneath_the_table():
    table = table_from(BASELINE + SOFT, [failure(record("at"), 0)])
    assert "at" not in lines(table)
    assert caveats(table) == [
        f"failed, and in no cell: {record('at')['folder']} (FloatingPointError: loss is nan)."
    ]
    elsewhere = table_from(
        [record(), record(dataset="svhn")], table.unplaced, choice={"dataset": ["svhn"]}
    )
    assert not elsewhere.unplaced


# The protocol


def test_the_caption_says_how_the_numbers_came_about():
    told = " ".join(
        caption_sentences(table_from(BASELINE + SOFT, note="A smoke test, no evidence."))
    )
    for part in (
        "at the last epoch",
        "seeds 0, 1, 2",
        "digits (1,297 test images, 500 for training)",
        "recipe quickstart (20 epochs)",
        "Training took these runs 6 min 00 s, at 500 images/s each",
        "speed mode repro",
        "device cpu",
        "its variance is not in the ±",
        "about ± 2.3",  # 2.776 * sqrt(2 / 3) = 2.27
        "A smoke test, no evidence.",
    ):
        assert part in told


@pytest.mark.parametrize(
    "other, warning",
    [
        ({"commit": "def456"}, f"commits in one cell: st in {DIGITS} (abc123, def456)"),
        ({"commit": None}, f"commits in one cell: st in {DIGITS} (abc123, unknown)"),
        ({"versions": {"kd_bench": "0.1.0", "torch": "2.11.0"}}, "(2.11.0, 2.13.0)"),
        ({"versions": {"kd_bench": "0.2.0", "torch": "2.13.0"}}, "(0.1.0, 0.2.0)"),
        ({"dirty": True}, f"changed working tree: st in {DIGITS}"),
    ],
)
def test_a_cell_of_unlike_makings_is_warned_of(other, warning):
    table = table_from([*BASELINE, *SOFT, record("st", 3, **other)])
    assert [warning in text for text in caveats(table)] == [True]
    assert not caveats(table_from(BASELINE + SOFT))


def test_two_teachers_behind_a_column_are_warned_of():
    table = table_from([*BASELINE, *SOFT, record("st", 3, teacher_accuracy=96.5)])
    assert lines(table)["teacher"] == ["96.3 ± 0.3 (2)"]  # SD 0.4 / sqrt(2) = 0.28
    assert any("several teachers" in text for text in caveats(table))


def test_a_column_without_a_baseline_says_so():
    assert any("no finished baseline" in text for text in caveats(table_from(SOFT)))


# Whatever the records


ACCURACIES = strategies.lists(
    strategies.integers(0, 1000).map(lambda n: n / 10), min_size=1, max_size=4
)


@settings(max_examples=25, deadline=None)
@given(ACCURACIES, ACCURACIES, ACCURACIES, strategies.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(a, b, c, shuffle: random.Random):
    records = seeds("baseline", *a) + seeds("st", *b) + seeds("at", *c, dataset="svhn")
    shuffled = records[:]
    shuffle.shuffle(shuffled)
    assert render(shuffled, format="markdown") == render(records, format="markdown")


@settings(max_examples=25, deadline=None)
@given(ACCURACIES, ACCURACIES, strategies.integers(0, 1000))
def test_another_seed_changes_the_mean_of_its_own_cell_alone(a, b, accuracy):
    records = seeds("baseline", *a) + seeds("st", *b) + seeds("st", *b, dataset="svhn")
    before = table_from(records).cells
    after = table_from([*records, record("st", 9, accuracy / 10)]).cells
    changed = {key for key in before if before[key].values != after[key].values}
    assert changed == {("st", DIGITS)}
    assert before.keys() == after.keys()


# Formats


def test_a_markdown_table_reads_as_a_person_would_write_it():
    # st: (94.9 + 95.5 + 96.1) / 3 = 95.5, SD 0.6, deltas 1.9, 1.5, 1.7. at: 93.8 of two, SD 0.14,
    # deltas 0.7, -0.1. baseline 93.8, SD 0.7. Squares 0.98 + 0.72 + 0.02, df 2 + 2 + 1: pooled SD
    # sqrt(1.72 / 5) = 0.587; t = 2.571. Half widths of deltas 2.571 * 0.587 * sqrt(2/3) = 1.23 and
    # * sqrt(1) = 1.51, median 1.37. From the best: at 1.7 > 2.571 * 0.587 * sqrt(1/3 + 1/2) = 1.38.
    records = [
        *seeds("baseline", 93.0, 94.0, 94.4),
        *seeds("st", 94.9, 95.5, 96.1),
        *seeds("at", 93.7, 93.9),
    ]
    written = """\
| method | digits resnet20-resnet8 |
| :-- | --: |
| teacher | 96.1 |
| baseline | 93.8 ± 0.7 (3) |
| at | 93.8 ± 0.1 (2) +0.3, 1 failed |
| st | **95.5 ± 0.6 (3)** +1.7 |

Accuracy in percent of all test images at the last epoch, mean ± sample SD (n runs; seeds 0, 1, \
2). Data digits (1,297 test images, 500 for training); recipe quickstart (20 epochs); speed mode \
repro; device cpu; kd_bench 0.1.0, torch 2.13.0. Training took these runs 8 min 00 s, at 500 \
images/s each. A signed number is the mean difference to the baseline in points, paired by seed; \
its 95 % interval is about ± 1.4 (SD of runs pooled over a column: 0.6, 5 degrees of freedom; runs \
taken as independent). Bold: the best of a column and every method not told from it (95 % interval \
of the difference, same SD, not corrected for the number of methods). One teacher, of one seed, \
stands behind a column: its variance is not in the ±. Digits are easy.

`python tools/table.py --dataset digits`
"""
    table = table_from(
        records,
        [failure(record("at"), 2)],
        note="Digits are easy.",
        command="python tools/table.py --dataset digits",
    )
    assert FORMATS["markdown"](table) == written


def test_the_csv_has_a_line_for_each_cell_with_its_interval_and_its_runs():
    # 2 -+ 2.776445 * sqrt(2 / 3) = 2 -+ 2.266958
    assert render(BASELINE + SOFT, format="csv") == (
        "dataset,pair,recipe,speed,method,changed,metric,n,mean,sd,delta,delta_low,delta_high,"
        "teacher_accuracy,seeds,values,failed\n"
        "digits,resnet20-resnet8,quickstart,repro,baseline,,last,3,90.0000,1.0000,,,,"
        "96.1000,0 1 2,89.0000 90.0000 91.0000,0\n"
        "digits,resnet20-resnet8,quickstart,repro,st,,last,3,92.0000,1.0000,2.0000,-0.2670,4.2670,"
        "96.1000,0 1 2,91.0000 92.0000 93.0000,0\n"
    )


def test_the_csv_names_what_was_changed_by_its_whole_path():
    changed = {"method.losses.st.temperature": 8}
    table = pd.read_csv(io.StringIO(render([record("st", changed=changed)], format="csv")))
    assert list(table["changed"]) == ["method.losses.st.temperature=8"]


def test_latex_has_its_special_characters_escaped_and_its_best_bold():
    records = seeds("baseline", 89.9, 90.0, 90.1, student="wrn_16_2")
    records += seeds("st", 91.9, 92.0, 92.1, student="wrn_16_2", teacher="wrn_40_2")
    records += seeds("at", 88.9, 89.0, 89.1, student="wrn_16_2", teacher="wrn_40_2")
    text = render(records, format="latex")
    assert r"method & digits wrn\_40\_2-wrn\_16\_2 \\" in text
    assert r"st & \textbf{92.0 $\pm$ 0.1 (3)} +2.0 \\" in text
    assert r"at & 89.0 $\pm$ 0.1 (3) $-$1.0 \\" in text
    assert r"95 \% interval" in text


def test_the_terminal_shows_the_table_and_its_protocol():
    shown = render(seeds("baseline", 89.9, 90.0) + seeds("st", 91.9, 92.0), format="terminal")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()[2:5]}
    assert rows == {"teacher": "96.1", "baseline": "90.0 ± 0.1 (2)", "st": "92.0 ± 0.1 (2)* +2.0"}
    assert "at the last" in shown


def test_an_unknown_format_is_answered_with_those_there():
    with pytest.raises(UserError, match="no format 'html'; there are markdown, terminal"):
        render(BASELINE, format="html")


# Reading


def test_records_are_found_wherever_they_lie_below_a_folder(tmp_path):
    write(tmp_path / "deep", [record(), record("st")])
    assert {each["folder"] for each in read_records(tmp_path)} == {
        record()["folder"],
        record("st")["folder"],
    }


def test_a_failure_is_read_by_its_first_line_unless_the_job_was_finished_since(tmp_path):
    write(tmp_path, [record(seed=0)])
    for seed in (0, 1):
        folder = tmp_path / record(seed=seed)["folder"]
        folder.mkdir(exist_ok=True)
        (folder / "error.txt").write_text("ValueError: no\n\nTraceback ...\n")
    (tmp_path / "error.txt").write_text("of no job\n")
    assert read_failures(tmp_path / "digits") == [
        {"folder": record(seed=1)["folder"], "reason": "ValueError: no"}
    ]


def test_a_failure_of_a_sweep_carries_its_job(tmp_path):
    job = record("st")
    (tmp_path / job["folder"]).mkdir(parents=True)
    (tmp_path / job["folder"] / "error.txt").write_text("ValueError: no\n")
    (tmp_path / ".sweeps").mkdir()
    frozen = {"folder": job["folder"], "label": "a job", **job_of(job)}
    (tmp_path / ".sweeps" / "mine.jsonl").write_text(json.dumps(frozen) + "\n")
    assert read_failures(tmp_path) == [
        {"folder": job["folder"], "reason": "ValueError: no", **job_of(job)}
    ]


@pytest.mark.parametrize("content, told", [("{", "is no record"), ('{"format": 7}', "format 7")])
def test_a_file_that_is_no_record_is_named(tmp_path, content, told):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=f"result.json.*{told}"):
        read_records(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        read_records(tmp_path / "nowhere")


# Blocks and the tool

PAGE = """# Results

<!-- table: python tools/table.py --from results --method st --csv cells.csv -->
old
<!-- /table -->

text
<!-- table: python tools/table.py --from results --note "A note." -->
<!-- /table -->
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with records in results/ and a page with two blocks."""
    write(tmp_path / "results", BASELINE + SOFT + [record("at")])
    (tmp_path / "README.md").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_made_by_the_command_on_its_line(place):
    assert tool("table").main([]) == 0
    first, second = markdown.blocks(Path("README.md").read_text())
    assert "| st |" in first.body
    assert "| at |" not in first.body
    assert "| at |" in second.body
    assert "A note." in second.body
    assert "`python tools/table.py --from results --method st --csv cells.csv`" in first.body
    assert Path("README.md").read_text().startswith("# Results\n\n<!-- table: ")
    assert set(pd.read_csv("cells.csv")["method"]) == {"baseline", "st"}


def test_regenerating_twice_changes_nothing(place, capsys):
    tool("table").main([])
    text = Path("README.md").read_text()
    capsys.readouterr()
    tool("table").main([])
    assert Path("README.md").read_text() == text
    assert capsys.readouterr().out == ""


def test_check_names_stale_blocks_and_writes_nothing(place, capsys):
    assert tool("table").main(["--check"]) == 1
    assert Path("README.md").read_text() == PAGE
    assert not Path("cells.csv").exists()
    told = capsys.readouterr().out
    assert "README.md:3: stale, python tools/table.py --from results --method st" in told
    assert "-old" in told
    assert "README.md:8: stale" in told
    assert "cells.csv: stale" in told


def test_a_figure_is_stale_when_its_numbers_are(place, capsys):
    Path("README.md").write_text(PAGE.replace("--csv cells.csv", "--figure deltas.svg"))
    assert tool("table").main(["--check"]) == 1
    assert "deltas.svg: stale" in capsys.readouterr().out
    tool("table").main([])
    assert tool("table").main(["--check"]) == 0
    drawn = Path("deltas.svg").read_text()
    Path("deltas.svg").write_text(drawn.replace("</svg>", "<!-- other lines --></svg>"))
    assert tool("table").main(["--check"]) == 0
    write(place / "results", [record("st", 3, 92.0), record("baseline", 3, 90.0)])
    capsys.readouterr()
    assert tool("table").main(["--check"]) == 1
    assert "deltas.svg: stale" in capsys.readouterr().out


def test_check_is_content_with_what_was_just_made_until_a_record_is_added(place):
    tool("table").main([])
    assert tool("table").main(["--check"]) == 0
    write(place / "results", [record("st", 3, 92.0)])
    assert tool("table").main(["--check"]) == 1


def test_with_arguments_the_tool_prints_and_writes_no_file(place, capsys):
    assert tool("table").main(["--method", "st", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| st |" in printed
    assert "`python tools/table.py --method st --format markdown`" in printed
    assert Path("README.md").read_text() == PAGE


def test_a_block_without_an_end_is_named_with_its_file(place):
    Path("README.md").write_text(PAGE.replace("<!-- /table -->", "", 1))
    with pytest.raises(UserError, match=r"README.md: 2 table blocks start .* 1 end"):
        tool("table").main([])


def test_a_block_runs_no_other_command(place):
    Path("README.md").write_text("<!-- table: rm -r . -->\n<!-- /table -->\n")
    with pytest.raises(UserError, match=r"must be 'python tools/table.py ...', got 'rm -r .'"):
        tool("table").main([])


def test_files_beside_the_table_make_their_folder(place):
    tool("table").main(["--csv", "new/cells.csv", "--figure", "new/deltas.svg"])
    assert Path("new/cells.csv").exists() and Path("new/deltas.svg").exists()


def test_a_page_that_is_not_there_is_one_line(place):
    with pytest.raises(UserError, match=r"^there is no file docs/none.md$"):
        tool("table").main(["--check", "docs/none.md"])


def test_an_empty_folder_is_one_line(place):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"^no records in empty$"):
        tool("table").main(["--from", "empty"])


@pytest.mark.parametrize("script", ["table", "publish"])
def test_a_mistake_is_answered_with_one_line_and_no_traceback(tmp_path, script):
    command = [sys.executable, ROOT / f"tools/{script}.py", "--from", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "no folder nowhere to read records from\n")


def test_a_table_is_made_without_torch():
    code = "import sys, kd_bench.results.markdown, kd_bench.results.render; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
