"""The results table: cells, differences, columns and captions, and runs that are never averaged."""

from __future__ import annotations

import io
import math
import random
import sys
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from helpers.written_records import failure, record, seeds, taught_by, teacher_record
from hypothesis import given, settings, strategies

from kd_bench.results.labels import natural_key, short_name
from kd_bench.results.options import FORMAT_NAMES, METRIC, METRICS
from kd_bench.results.record import Corrupted, Metrics, Probe
from kd_bench.results.rendering import tables as render
from kd_bench.results.rendering.caption import caption_sentences, caveats
from kd_bench.results.rendering.tables import cell_text, render_records, render_table, to_rows
from kd_bench.results.table import Cell, Delta, table_from
from kd_bench.utils.errors import UserError

DIGITS = "digits resnet20-resnet8"

# Means 90 and 92; SD 1 each: the deviations are -1, 0, 1, so SD = sqrt(2 / 2).
BASELINE = seeds("baseline", 89.0, 90.0, 91.0)
SOFT = seeds("st", 91.0, 92.0, 93.0)


def lines(table) -> dict[str, list[str]]:
    """A table's cells as text, by row."""
    return {row: cells for row, *cells in to_rows(table, bold="<{}>")}


# Cells


def test_a_cell_has_the_mean_the_sample_deviation_and_the_number_of_runs():
    cell = table_from(BASELINE + SOFT).cells["st", DIGITS]
    assert (cell.mean, cell.sd, cell.n) == (92.0, 1.0, 3)  # deviations -1, 0, 1; (1 + 1) / 2 = 1


def test_a_delta_is_the_mean_over_the_common_seeds():
    # seeds 1 and 2 are in both: (95 - 90 + 93 - 91) / 2 = 3.5; seed 7 has no partner
    methods = [record("st", 1, 95.0), record("st", 2, 93.0), record("st", 7, 50.0)]
    delta = table_from(BASELINE + methods).cells["st", DIGITS].delta
    assert (delta.mean, delta.pairs) == (3.5, 2)


def test_the_interval_of_a_delta_uses_the_pooled_deviation():
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
    ("cell", "text"),
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
def test_a_cell_shows_n_and_the_deviation_only_of_several_runs(cell, text):
    assert cell_text(cell, digits=1, bold="<{}>") == text


@pytest.mark.parametrize(("images", "text"), [(1999, "90.0 ± 1.0 (3)"), (2000, "90.00 ± 1.00 (3)")])
def test_results_on_fewer_than_2000_test_images_have_one_decimal(images, text):
    table = table_from(seeds("baseline", 89.0, 90.0, 91.0, test_images=images))
    assert lines(table)["baseline"] == [text]


def test_the_metric_determines_the_epoch():
    records = [record(accuracy=90.0, best=91.0, best_val=90.5)]
    means = [
        table_from(records, metric=metric).cells["baseline", "digits resnet8"].mean
        for metric in ("last", "best", "best-val")
    ]
    assert means == [90.0, 91.0, 90.5]


def test_the_best_test_epoch_is_labelled_as_test_selected():
    heading, *_ = to_rows(table_from(BASELINE + SOFT, metric="best"))
    assert heading == ["method", f"{DIGITS}, best (test-selected)"]
    assert "test-selected" in caption_sentences(table_from(BASELINE, metric="best"))[0]


def test_best_val_needs_validation_images():
    with pytest.raises(UserError, match=r"best-val.*last"):
        table_from(BASELINE, metric="best-val")


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(UserError, match=f"'first'.*{', '.join(METRICS)}"):
        table_from(BASELINE, metric="first")


# Metrics other than accuracy


def measured(of, **values):
    """A record with all metrics (the given values, or defaults), corruptions and a probe."""
    some = Metrics(
        top5=99.0,
        nll=0.5,
        ece=2.0,
        temperature=1.5,
        ece_scaled=1.0,
        kl=None if of.teacher is None else 0.25,
        teacher_errors=None if of.teacher is None else 40.0,
        per_class=[],
    )
    return replace(
        of,
        metrics=replace(some, **values),
        corrupted=Corrupted(1, {"fog": [60.0] * 5, "snow": [70.0] * 5}, {"saturate": [80.0] * 5}),
        probes={"cifar10": Probe(55.5, {}, "images", 1)},
    )


@pytest.mark.parametrize(
    ("metric", "cell"),
    [
        ("last", "91.0 (1)"),
        ("best", "92.5 (1)"),
        ("top5", "99.0 (1)"),
        ("nll", "0.500 (1)"),
        ("ece", "2.0 (1)"),
        ("ece-scaled", "1.0 (1)"),
        ("agreement", "95.0 (1)"),
        ("teacher-errors", "40.0 (1)"),
        ("kl", "0.250 (1)"),
        ("seconds", "60.0 (1)"),
        ("teacher-images", "500 (1)"),
        ("training-parameters", "30 (1)"),
        ("inference-parameters", "20 (1)"),
        ("memory", "300 (1)"),
        ("corrupted", "65.0 (1)"),
        ("corrupted:snow", "70.0 (1)"),
        ("corrupted:saturate", "80.0 (1)"),
        ("probe:cifar10", "55.5 (1)"),
    ],
)
def test_each_metric_shows_its_value_in_the_record(metric, cell):
    sizes = {"student": 1000, "training": 1030, "inference": 1020}
    of = record("st", accuracy=91.0, best=92.5, parameters=sizes, teacher_images=500)
    assert lines(table_from([measured(of)], metric=metric))["st"] == [cell]


def test_all_metrics_have_different_headings():
    assert len({metric.heading for metric in METRIC.values()}) == len(METRICS)


def of_likelihood(method, *values):
    """Records of one job with these likelihoods, and equal accuracies."""
    return [measured(record(method, seed), nll=nll) for seed, nll in enumerate(values)]


def test_the_lowest_value_is_the_best_where_lower_is_better():
    # Every SD is 0.1, pooled 0.1 with 8 degrees of freedom: half width 2.306 * 0.1 * sqrt(2 / 3)
    # = 0.188. at is 0.1 above dkd, st is 0.3 above, the baseline 2.0.
    records = [
        *of_likelihood("baseline", 2.9, 3.0, 3.1),
        *of_likelihood("st", 1.2, 1.3, 1.4),
        *of_likelihood("at", 1.0, 1.1, 1.2),
        *of_likelihood("dkd", 0.9, 1.0, 1.1),
    ]
    table = table_from(records, metric="nll")
    assert {row for (row, _), cell in table.cells.items() if cell.bold} == {"at", "dkd"}
    assert table.cells["dkd", DIGITS].delta.mean == pytest.approx(-2.0)
    assert lines(table)["dkd"] == ["<1.000 ± 0.100 (3)> -2.000↓"]
    caption = " ".join(caption_sentences(table))
    assert caption.startswith("Negative log-likelihood in nats, mean over all test images")
    assert "mean difference from the baseline in nats" in caption
    assert "its 95 % interval is about ± 0.188" in caption
    assert "nats for one method chosen beforehand" in caption


def test_costs_are_not_tested_or_ranked():
    table = table_from(
        [
            *(replace(each, seconds=60.0 + i) for i, each in enumerate(BASELINE)),
            *(replace(each, seconds=80.0 + i) for i, each in enumerate(SOFT)),
        ],
        metric="seconds",
    )
    assert lines(table) == {
        "method": [f"{DIGITS}, seconds"],
        "baseline": ["61.0 ± 1.0 (3)"],
        "st": ["81.0 ± 1.0 (3) +20.0"],
    }
    caption = " ".join(caption_sentences(table))
    assert "from the baseline in s, paired by seed. " in f"{caption} "
    assert "interval" not in caption
    assert "best" not in caption


def test_the_teachers_accuracy_is_shown_only_above_accuracies():
    records = [measured(each) for each in BASELINE + SOFT]
    assert "teacher" in lines(table_from(records))
    assert "teacher" not in lines(table_from(records, metric="nll"))


def test_a_baseline_needs_no_teacher_images():
    table = table_from([*BASELINE, replace(SOFT[0], teacher_images=800)], metric="teacher-images")
    assert lines(table)["baseline"] == ["0 ± 0 (3)"]


def test_runs_without_the_metric_are_listed_with_the_command_that_adds_it():
    table = table_from([*map(measured, BASELINE), measured(SOFT[0]), *SOFT[1:]], metric="nll")
    assert table.cells["st", DIGITS].n == 1
    assert caveats(table) == [
        "left out, without nll (`kd-bench evaluate RUN` adds it):"
        f" {SOFT[1].folder}, {SOFT[2].folder}."
    ]


def test_runs_that_are_not_selected_are_not_listed_as_missing_a_metric():
    records = [*map(measured, BASELINE + SOFT), record("at")]
    assert not caveats(table_from(records, metric="nll", choice={"method": ["st"]}))


def test_a_metric_that_no_run_has_is_an_error_with_the_command_that_adds_it():
    with pytest.raises(UserError, match=r"^no run has nll; `kd-bench evaluate RUN` adds it$"):
        table_from(BASELINE, metric="nll")
    with pytest.raises(UserError, match=r"^no run has a teacher, which kl requires$"):
        table_from([measured(each) for each in BASELINE], metric="kl")


def test_baselines_are_not_reported_for_lacking_a_comparison_with_the_teacher():
    table = table_from([measured(each) for each in BASELINE + SOFT], metric="kl")
    assert list(table.rows) == ["st"]
    assert not caveats(table)


# Bold


def test_the_best_method_and_all_not_significantly_worse_are_bold():
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


def test_a_row_with_failed_seeds_is_not_bold():
    records = [
        *seeds("baseline", 89.9, 90.0, 90.1),
        *seeds("st", 91.9, 92.0),
        *seeds("at", 91.8, 91.9, 92.0),
    ]
    table = table_from(records, [failure(records[3], 2)])
    assert {row for (row, _), cell in table.cells.items() if cell.bold} == {"at"}


def test_nothing_is_bold_without_a_significant_difference():
    # 92 - 90 = 2 is within 2.776 * 1 * sqrt(2 / 3) = 2.27
    table = table_from(BASELINE + SOFT)
    assert not any(cell.bold for cell in table.cells.values())
    assert any("No method is marked" in sentence for sentence in caption_sentences(table))


def test_nothing_is_bold_without_a_deviation():
    table = table_from([record(accuracy=50.0), record("st", accuracy=90.0)])
    assert not any(cell.bold for cell in table.cells.values())
    assert any("one seed per cell" in sentence for sentence in caption_sentences(table))


def test_a_single_run_is_tested_with_the_deviation_of_the_others():
    # pooled SD 1 with 2 degrees of freedom: t = 4.303; half width 4.303 * sqrt(1 + 1/3) = 4.97
    def bold(accuracy: float) -> set[str]:
        table = table_from([*BASELINE, record("st", accuracy=accuracy)])
        return {row for (row, _), cell in table.cells.items() if cell.bold}

    assert bold(90.0 + 5.1) == {"st"}
    assert bold(90.0 + 4.8) == set()


# Budgets


def other_budgets():
    """A baseline, at, st with two views per step, and dkd with an init phase of a quarter."""
    init = seeds("dkd", 95.9, 96.0, 96.1, changed={"method.init.epochs": 0.25})
    return [
        *seeds("baseline", 89.9, 90.0, 90.1),
        *seeds("at", 91.9, 92.0, 92.1),
        *seeds("st", 93.9, 94.0, 94.1, views_per_step=2.0),
        *(replace(each, changed={}) for each in init),
    ]


def test_rows_of_another_budget_are_below_a_heading_with_that_budget():
    assert list(lines(table_from(other_budgets())).items()) == [
        ("method", [DIGITS]),
        ("teacher", ["96.1"]),
        ("baseline", ["90.0 ± 0.1 (3)"]),
        ("at", ["<92.0 ± 0.1 (3)> +2.0↑"]),
        ("25 % more epochs:", [""]),
        ("dkd", ["96.0 ± 0.1 (3) +6.0↑"]),
        ("2 views per step:", [""]),
        ("st", ["94.0 ± 0.1 (3) +4.0↑"]),
    ]


def test_the_best_of_each_budget_is_bold():
    # at is 2 below st and 4 below dkd, but the best of its budget; among those with 2 views per
    # step, st is 3 above dml
    records = [*other_budgets(), *seeds("dml", 90.9, 91.0, 91.1, views_per_step=2.0)]
    table = table_from(records)
    assert {row for (row, _), cell in table.cells.items() if cell.bold} == {"at", "st"}
    text = " ".join(caption_sentences(table))
    assert "the best of a column and group" in text
    assert "They are ranked only among themselves" in text


@pytest.mark.slow
def test_budgets_do_not_change_intervals_or_differences():
    plain = [replace(each, views_per_step=None) for each in other_budgets()]
    alike, unlike = table_from(plain), table_from(other_budgets())
    assert {key: cell.delta for key, cell in alike.cells.items()} == {
        key: cell.delta for key, cell in unlike.cells.items()
    }


def test_a_table_with_a_single_budget_does_not_mention_it():
    text = render_records(BASELINE + SOFT, format_name="markdown")
    assert "budget" not in text


@pytest.mark.parametrize(
    ("loss", "given", "words"),
    [
        ("sskd", {}, "4 views per step"),
        ("bss", {"share": 0.25}, "1.25 views per step"),
        ("st", {}, "the recipe's budget"),
    ],
)
def test_the_views_per_step_of_an_older_record_are_derived_from_its_method(loss, given, words):
    older = record(changed={f"method.losses.{loss}": given})
    assert str(older.budget) == words
    assert replace(older, views_per_step=3.0).budget.views_per_step == 3.0


@pytest.mark.slow
def test_every_format_shows_the_budgets():
    names = {"terminal": "2 views per step:", "markdown": "| *2 views per step:* |  |",
             "latex": r"\emph{25 \% more epochs:} &  \\", "csv": ",2.0000,0.0000,st,"}  # fmt: skip
    for kind, expected in names.items():
        assert expected in render_records(other_budgets(), format_name=kind)


def test_a_failed_seed_is_in_the_row_and_budget_of_the_finished_seeds():
    records = other_budgets()
    table = table_from(records, [failure(records[6], 7, is_known=True)])
    assert table.cells["st", DIGITS].failed == 1
    assert table.groups["st"].budget.views_per_step == 2.0


# Rows and columns


def test_changed_values_of_the_method_are_part_of_the_row():
    records = [
        record("st"),
        record("st", changed={"method.losses.st.temperature": 16}),
        record("st", changed={"method.losses.st.temperature": 8}),
        record("st", changed={"method.losses.st.temperature": 8, "method.weights.ce": 0.5}),
    ]
    assert list(table_from(records[1:3]).rows) == ["st (temperature=8)", "st (temperature=16)"]
    assert list(table_from(records[:1]).rows) == ["st"]


def test_all_rows_of_a_method_show_the_values_that_any_of_them_changes():
    values = [
        {},  # those of the file: temperature 4, ce 1
        {"method.losses.st.temperature": 16},
        {"method.losses.st.temperature": 0.25},
        {"method.losses.st.temperature": 0.5},
        {"method.losses.st.temperature": 4, "method.weights.ce": 0.5},
    ]
    rows = list(table_from([record("at"), *(record("st", changed=each) for each in values)]).rows)
    assert rows == [
        "at",
        "st (temperature=0.25, ce=1)",
        "st (temperature=0.5, ce=1)",
        "st (temperature=4, ce=0.5)",
        "st (temperature=4, ce=1)",
        "st (temperature=16, ce=1)",
    ]


def test_a_method_with_a_plugin_has_its_own_rows():
    hot = {"method.losses.st.temperature": 8}
    table = table_from(
        [
            *BASELINE,
            *SOFT,
            record("st", changed=hot),
            record("st", plugins=["swap"]),
            record("st", plugins=["ea", "swap"]),
            record("st", plugins=["swap", "ea"]),
            record("st", plugins=["swap"], changed=hot),
            record("dkd", plugins=["swap"]),
        ]
    )
    assert list(table.rows.items()) == [
        ("baseline", "baseline"),
        ("dkd + swap", "dkd + swap"),
        ("st (temperature=4)", "st"),
        ("st (temperature=8)", "st"),
        ("st + ea + swap", "st + ea + swap"),
        ("st + swap (temperature=4)", "st + swap"),
        ("st + swap (temperature=8)", "st + swap"),
        ("st + swap + ea", "st + swap + ea"),
    ]


def test_a_changed_value_of_a_plugin_is_part_of_the_row():
    louder = record("st", plugins=["swap"], changed={"method.plugins.swap.noise": 0.2})
    assert "st + swap (noise=0.2)" in table_from([*BASELINE, louder]).rows


def test_a_selected_method_is_shown_with_its_plugins_in_the_order_of_the_selection():
    records = [*BASELINE, *SOFT, record("st", plugins=["swap"]), record("dkd")]
    rows = table_from(records, choice={"method": ["st"]}).rows
    assert list(rows) == ["baseline", "st", "st + swap"]
    rows = table_from(records, choice={"method": ["st", "dkd"]}).rows
    assert list(rows) == ["baseline", "st", "st + swap", "dkd"]


def test_a_value_that_a_dataset_sets_is_not_part_of_the_row():
    weight = "method.weights.at"
    of_file = [
        replace(record("at", dataset=name, changed={weight: value}), changed={})
        for name, value in (("digits", 30), ("cifar10", 1000))
    ]
    table = table_from([*of_file, record("at", changed={weight: 100})])
    assert list(table.rows) == ["at", "at (weights.at=100)"]


def test_the_name_of_a_changed_value_is_the_shortest_unique_suffix_of_its_path():
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


def test_the_baseline_comes_first_then_the_given_order_then_names():
    records = [record(name) for name in ("st", "dkd", "at", "baseline")]
    assert list(table_from(records).rows) == ["baseline", "at", "dkd", "st"]
    assert list(table_from(records, order=["st"]).rows) == ["baseline", "st", "at", "dkd"]


def test_a_baseline_is_in_every_column_of_its_student_and_recipe():
    records = [
        record(accuracy=90.0),
        record("st", accuracy=91.0),
        record("st", accuracy=93.0, teacher="resnet110"),
        record("st", accuracy=80.0, recipe="crd240"),
        record("st", accuracy=70.0, student="resnet14"),
    ]
    table = table_from(records)
    with_baseline = [c.label for c in table.columns if "baseline" in table.under(c)]
    assert with_baseline == [f"{DIGITS} (quickstart)", "digits resnet110-resnet8 (quickstart)"]
    # resnet20-resnet8 by crd240 and by quickstart, resnet20-resnet14, resnet110-resnet8
    expected = ["80.0 (1)", "91.0 (1) +1.0", "70.0 (1)", "93.0 (1) +3.0"]
    assert lines(table)["st"] == expected


def test_a_method_that_trains_its_teacher_is_in_every_column_of_its_pair():
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
        ],
        "teacher": ["96.1", "96.1", ""],
        "baseline": ["90.0 (1)", "90.0 (1)", "90.0 (1)"],
        "dml": ["93.0 (1) +3.0", "93.0 (1) +3.0", "94.0 (1) +4.0"],
        "st": ["91.0 (1) +1.0", "92.0 (1) +2.0", ""],
    }


@pytest.mark.parametrize(
    ("changed", "column"),
    [
        ({"recipe.epochs": 5}, f"{DIGITS} (epochs=5)"),
        ({"dataset.pad": 2}, f"{DIGITS} (pad=2)"),
        ({"model.net.width": 16}, f"{DIGITS} (width=16)"),
        ({"teacher.seed": 1}, f"{DIGITS} (teacher.seed=1)"),
        ({"teacher.recipe.epochs": 2}, f"{DIGITS} (teacher.epochs=2)"),
        ({"dataset.source.root": "elsewhere"}, DIGITS),  # the folder of the images does not matter
    ],
)
def test_changed_values_outside_the_method_are_part_of_the_column(changed, column):
    assert [c.label for c in table_from([record("st", changed=changed)]).columns] == [column]


def test_recipes_of_one_name_with_different_values_are_different_columns():
    shorter = replace(record("st", accuracy=80.0, changed={"recipe.epochs": 5}), changed={})
    table = table_from([record("st", accuracy=91.0), shorter])
    assert {c.label: table.cells["st", c.label].mean for c in table.columns} == {
        f"{DIGITS} (recipe.epochs=5)": 80.0,
        f"{DIGITS} (recipe.epochs=20)": 91.0,
    }


def test_speed_modes_are_different_columns():
    table = table_from([record("st"), record("st", speed="reference")])
    assert [c.label for c in table.columns] == [f"{DIGITS} (reference)", f"{DIGITS} (repro)"]


def test_numbers_of_threads_are_different_columns_and_the_caption_explains_it():
    two = record("st", changed={"threads": 2}, threads=2)
    table = table_from([record("st"), two])
    labels = [f"{DIGITS} (repro)", f"{DIGITS} (repro, threads=2)"]
    assert [c.label for c in table.columns] == labels
    assert "speed mode repro and repro, threads=2;" in caption_sentences(table)[0]
    sentence = "The number of threads changes results bitwise, so each number has its own columns."
    assert sentence in caption_sentences(table)
    assert sentence not in caption_sentences(table_from([record("st")]))


def test_a_run_that_is_only_a_teacher_has_no_column_unless_selected():
    student = record("st")
    records = [record(), student, teacher_record(student)]
    assert [c.label for c in table_from(records).columns] == [DIGITS]
    chosen = table_from(records, choice={"pair": ["none-resnet20"]})
    assert lines(chosen) == {"method": ["digits resnet20"], "baseline": ["96.1 (1)"]}


def test_baselines_without_students_have_columns():
    records = [record(), record(student="resnet20")]
    assert [c.label for c in table_from(records).columns] == ["digits resnet8", "digits resnet20"]


def test_jobs_of_a_chain_have_no_column_and_the_columns_teacher_is_the_first_of_the_chain():
    student = record("at")
    teacher = teacher_record(student)
    assistant = record("st", student="resnet14")
    chained = taught_by(assistant, method="dkd")
    other = record(student="resnet20", seed=1)
    together = taught_by(teacher, other)
    table = table_from([*BASELINE, student, teacher, other, assistant, chained, together])
    (column,) = table.columns
    assert column.label == DIGITS
    assert column.teachers == (96.1,)  # not the 50 % of the assistant and the ensemble
    assert set(table.rows) == {"baseline", "at", "dkd", "st"}
    chosen = table_from([*BASELINE, assistant, chained], choice={"student": ["resnet14"]})
    assert [each.label for each in chosen.columns] == ["digits resnet20-resnet14"]


def test_a_job_of_a_chain_stays_in_the_column_of_other_jobs():
    first = record("st")
    table = table_from([*BASELINE, first, taught_by(first, method="dkd")])
    assert set(table.rows) == {"baseline", "st", "dkd"}


def test_a_single_teacher_has_no_deviation():
    assert lines(table_from(BASELINE + SOFT))["teacher"] == ["96.1"]


def test_only_complete_rows_have_an_average_over_the_columns():
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


UNLIKE = {
    "learning rates": [{"changed": {"recipe.lr": 0.1}}, {"changed": {"recipe.lr": 0.2}}],
    "a learning rate of one dataset": [{"changed": {"recipe.lr": 0.1}}, {"dataset": "svhn"}],
    "recipes": [{"recipe": "crd240"}, {"dataset": "svhn"}],
    "teachers' recipes": [{"changed": {"teacher.recipe.epochs": 5}}, {"dataset": "svhn"}],
    "teachers": [{"changed": {"teacher.seed": 1}}, {}],
    "speed modes": [{"speed": "reference"}, {"dataset": "svhn"}],
    "images": [{"changed": {"dataset.pad": 2}}, {}],
}


@pytest.mark.parametrize("settings", UNLIKE.values(), ids=UNLIKE)
def test_there_is_no_average_over_columns_that_differ_in_more_than_dataset_and_models(settings):
    table = table_from([record("st", **setting) for setting in settings])
    assert (len(table.columns), table.averages) == (2, {})


def test_there_is_no_average_over_recipes_of_one_name_with_different_values():
    edited = replace(record("st", dataset="svhn", changed={"recipe.lr": 0.1}), changed={})
    assert not table_from([record("st"), edited]).averages


# Errors


def test_a_cell_never_averages_jobs_that_differ_in_more_than_the_seed():
    edited = replace(record("st", 1, changed={"method.losses.st.temperature": 8}), changed={})
    with pytest.raises(UserError) as error:
        table_from([record("st", 0), edited])
    message = str(error.value)
    assert message.startswith(f"st in {DIGITS} ")
    assert (
        f"method.losses.st.temperature is 4 in {record('st', 0).folder}, 8 in {edited.folder}"
        in message
    )


def test_a_cell_contains_a_seed_only_once():
    with pytest.raises(UserError, match=r"st in .* seed 0 .*seed0, .*seed0"):
        table_from([record("st", 0, 90.0), record("st", 0, 91.0)])


def test_runs_on_different_images_are_not_compared():
    with pytest.raises(UserError, match=r"different images: .*other images"):
        table_from([record(), record("st", data_fingerprint="other images")])


def test_a_table_needs_records():
    with pytest.raises(UserError, match="no records"):
        table_from([])


# Filters


@pytest.mark.parametrize(
    ("choice", "columns", "rows"),
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
def test_a_selection_shows_its_names_in_its_order_and_always_the_baseline(choice, columns, rows):
    records = [
        record(),
        record("st"),
        record("at"),
        record(dataset="svhn"),
        record("st", dataset="svhn"),
    ]
    table = table_from(records, choice=choice)
    assert ([c.label for c in table.columns], list(table.rows)) == (columns, rows)


def test_a_selected_pair_is_shown_with_the_baseline_of_its_student():
    records = [record(), record("st"), record("st", teacher="resnet110")]
    table = table_from(records, choice={"pair": ["resnet110-resnet8"]})
    assert list(table.cells) == [
        ("baseline", "digits resnet110-resnet8"),
        ("st", "digits resnet110-resnet8"),
    ]


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("dataset", "digits"),
        ("pair", "resnet20-resnet8"),
        ("method", "baseline, st"),
        ("recipe", "quickstart"),
        ("student", "resnet8"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(kind, known):
    with pytest.raises(UserError) as error:
        table_from(BASELINE + SOFT, choice={kind: ["nonsense"]})
    assert f"{kind} 'nonsense'" in str(error.value)
    assert str(error.value).endswith(f" {known}")


# Failed jobs


def test_a_failed_seed_is_counted_in_its_cell():
    table = table_from(BASELINE + SOFT[:2], [failure(SOFT[0], 2)])
    assert lines(table)["st"] == ["91.5 ± 0.7 (2) +2.0, 1 failed"]  # SD sqrt(2) / 2 = 0.71


def test_a_job_whose_seeds_all_failed_has_a_row():
    changed = record("st", changed={"method.losses.st.temperature": 8})
    failures = [
        failure(of, seed, is_known=True) for of in (changed, record("at")) for seed in (0, 1)
    ]
    table = lines(table_from(BASELINE + SOFT, failures))
    assert table["st (temperature=4)"] == ["92.0 ± 1.0 (3) +2.0"]
    assert table["st (temperature=8)"] == ["failed"]
    assert table["at"] == ["failed"]


def test_a_failed_baseline_is_in_every_column_of_its_student():
    failed = failure(record(), 0, is_known=True)
    table = table_from([*SOFT, record("st", teacher="resnet110")], [failed])
    assert lines(table)["baseline"] == ["failed", "failed", ""]  # and no average


def test_a_failure_of_an_unknown_job_is_listed_below_the_table():
    table = table_from(BASELINE + SOFT, [failure(record("at"), 0)])
    assert "at" not in lines(table)
    (caveat,) = caveats(table)
    assert caveat.startswith("failed")
    assert f"{record('at').folder} (FloatingPointError: loss is nan)" in caveat
    elsewhere = table_from(
        [record(), record(dataset="svhn")], table.unplaced, choice={"dataset": ["svhn"]}
    )
    assert not elsewhere.unplaced


def test_a_failure_of_an_unknown_job_belongs_to_its_method_whatever_its_plugins():
    failures = [failure(record("st", plugins=["swap"]), 0), failure(record("dkd"), 0)]
    unplaced = table_from(BASELINE + SOFT, failures, choice={"method": ["st"]}).unplaced
    assert unplaced == failures[:1]


# The protocol


def test_the_caption_describes_how_the_numbers_were_made():
    table = table_from(BASELINE + SOFT, note="A smoke test, no evidence.")
    caption = " ".join(caption_sentences(table))
    for part in (
        "at the last epoch",
        "seeds 0, 1, 2",
        "digits (1,297 test images, 500 for training)",
        "recipe quickstart (20 epochs)",
        "6 min 00 s, at 500 images/s",
        "speed mode repro",
        "device cpu",
        "its variance is not in the ±",
        "about ± 2.3",  # 2.776 * sqrt(2 / 3) = 2.27
        "A smoke test, no evidence.",
    ):
        assert part in caption


def test_the_caption_uses_the_singular_for_one():
    one = {"recipe": "short", "changed": {"recipe.epochs": 1}, "test_images": 1}
    records = [record(**one), record("st", **one), record("st", 1, **one)]
    caption = " ".join(caption_sentences(table_from(records[:1])))
    for text in ("n runs; seed 0)", "(1 test image,", "short (1 epoch)", "time of this run:"):
        assert text in caption
    assert "1 degree of freedom;" in " ".join(caption_sentences(table_from(records)))


@pytest.mark.parametrize(
    ("other", "warning"),
    [
        ({"commit": "def456"}, f"commits in one cell: st in {DIGITS} (abc123, def456)"),
        ({"commit": None}, f"commits in one cell: st in {DIGITS} (abc123, unknown)"),
        ({"versions": {"kd_bench": "0.1.0", "torch": "2.11.0"}}, "(2.11.0, 2.13.0)"),
        ({"versions": {"kd_bench": "0.2.0", "torch": "2.13.0"}}, "(0.1.0, 0.2.0)"),
        ({"threads": 2}, f"numbers of threads in one cell: st in {DIGITS} (1, 2)"),
        ({"dirty": True}, f"uncommitted code changes: st in {DIGITS}"),
    ],
)
def test_a_cell_with_runs_of_different_code_causes_a_warning(other, warning):
    table = table_from([*BASELINE, *SOFT, record("st", 3, **other)])
    assert [warning in text for text in caveats(table)] == [True]
    assert not caveats(table_from(BASELINE + SOFT))


def test_two_teachers_in_one_column_cause_a_warning():
    table = table_from([*BASELINE, *SOFT, record("st", 3, teacher_accuracy=96.5)])
    assert lines(table)["teacher"] == ["96.3 ± 0.3 (2)"]  # SD 0.4 / sqrt(2) = 0.28
    assert any("several teachers" in text for text in caveats(table))


def test_a_column_without_a_baseline_causes_a_warning():
    assert any("no finished baseline" in text for text in caveats(table_from(SOFT)))


# Properties


ACCURACIES = strategies.lists(
    strategies.integers(0, 1000).map(lambda n: n / 10), min_size=1, max_size=4
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(ACCURACIES, ACCURACIES, ACCURACIES, strategies.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(a, b, c, shuffle: random.Random):
    records = seeds("baseline", *a) + seeds("st", *b) + seeds("at", *c, dataset="svhn")
    shuffled = records[:]
    shuffle.shuffle(shuffled)
    assert render_records(shuffled, format_name="markdown") == render_records(
        records, format_name="markdown"
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(ACCURACIES, ACCURACIES, strategies.integers(0, 1000))
def test_another_seed_changes_only_the_mean_of_its_own_cell(a, b, accuracy):
    records = seeds("baseline", *a) + seeds("st", *b) + seeds("st", *b, dataset="svhn")
    before = table_from(records).cells
    after = table_from([*records, record("st", 9, accuracy / 10)]).cells
    changed = {key for key in before if before[key].values != after[key].values}
    assert changed == {("st", DIGITS)}
    assert before.keys() == after.keys()


# Formats


def test_a_markdown_table_with_its_caption_and_command():
    # st: (94.9 + 95.5 + 96.1) / 3 = 95.5, SD 0.6, deltas 1.9, 1.5, 1.7. at: 93.8 of two, SD 0.14,
    # deltas 0.7, -0.1. baseline 93.8, SD 0.7. Squares 1.04 + 0.72 + 0.02, df 2 + 2 + 1: pooled SD
    # sqrt(1.78 / 5) = 0.597; t = 2.571. Half widths of deltas 2.571 * 0.597 * sqrt(2/3) = 1.25 and
    # * sqrt(1) = 1.53, median 1.39. From the best: at 1.7 > 2.571 * 0.597 * sqrt(1/3 + 1/2) = 1.40.
    # st: t = 1.7 / (0.597 * sqrt(2/3)) = 3.49, p = 0.018 <= 0.05 / 2. Noncentralities of 80 % power
    # at 5 df (scipy.stats.nct): 3.514, and 4.177 at level 0.025; times 0.597 * sqrt(2/2), 2 seeds.
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
| st | **95.5 ± 0.6 (3)** +1.7↑ |

Accuracy in percent of all test images at the last epoch, mean ± sample SD (n runs; seeds 0, 1, \
2). Data digits (1,297 test images, 500 for training); recipe quickstart (20 epochs); speed mode \
repro; device cpu; kd_bench 0.1.0, torch 2.13.0. Total training time of these runs: 8 min 00 s, \
at 500 images/s per run. A signed number is the mean difference from the baseline in points, \
paired by seed; its 95 % interval is about ± 1.4 (SD of runs pooled over a column: 0.6, 5 degrees \
of freedom; runs treated as independent). ↑ and ↓ mark significant differences (5 % for all 2 \
rows together, Holm); the smallest true difference detected with 80 % power is 2.1 \
points for one method chosen beforehand, and 2.5 for any of them (noncentral t). Bold: the best of \
a column, if it is significantly better than the baseline, and every method that is not \
significantly different from it (5 % for all their pairs together, Holm). Each column uses one \
teacher (one seed): its variance is not in the ±. Digits are easy.

`python tools/table.py --dataset digits`
"""
    table = table_from(
        records,
        [failure(record("at"), 2)],
        note="Digits are easy.",
        command="python tools/table.py --dataset digits",
    )
    assert render_table(table, "markdown") == written


def test_the_csv_has_a_line_per_cell_with_its_interval_and_runs():
    # 2 -+ 2.776445 * sqrt(2 / 3) = 2 -+ 2.266958
    assert render_records(BASELINE + SOFT, format_name="csv") == (
        "dataset,pair,recipe,speed,kind,views_per_step,extra_epochs,method,changed,metric,n,mean,"
        "sd,delta,delta_low,delta_high,significantly,teacher_accuracy,seeds,values,failed\n"
        "digits,resnet20-resnet8,quickstart,repro,method,1.0000,0.0000,baseline,,last,3,90.0000,"
        "1.0000,,,,,"
        "96.1000,0 1 2,89.0000 90.0000 91.0000,0\n"
        "digits,resnet20-resnet8,quickstart,repro,method,1.0000,0.0000,st,,"
        "last,3,92.0000,1.0000,2.0000,-0.2670,4.2670,,"
        "96.1000,0 1 2,91.0000 92.0000 93.0000,0\n"
    )


def test_the_csv_lists_changed_values_by_their_full_paths():
    changed = {"method.losses.st.temperature": 8}
    text = render_records([record("st", changed=changed)], format_name="csv")
    table = pd.read_csv(io.StringIO(text))
    assert list(table["changed"]) == ["method.losses.st.temperature=8"]


def test_latex_escapes_special_characters_and_sets_the_best_in_bold():
    records = seeds("baseline", 89.9, 90.0, 90.1, student="wrn_16_2")
    records += seeds("st", 91.9, 92.0, 92.1, student="wrn_16_2", teacher="wrn_40_2")
    records += seeds("at", 88.9, 89.0, 89.1, student="wrn_16_2", teacher="wrn_40_2")
    text = render_records(records, format_name="latex")
    assert r"method & digits wrn\_40\_2-wrn\_16\_2 \\" in text
    assert r"st & \textbf{92.0 $\pm$ 0.1 (3)} +2.0$\uparrow$ \\" in text
    assert r"at & 89.0 $\pm$ 0.1 (3) $-$1.0$\downarrow$ \\" in text
    assert r"95 \% interval" in text


def test_the_terminal_shows_the_table_and_a_caption():
    records = seeds("baseline", 89.9, 90.0) + seeds("st", 91.9, 92.0)
    shown = render_records(records, format_name="terminal")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.splitlines()[2:5]}
    assert rows == {"teacher": "96.1", "baseline": "90.0 ± 0.1 (2)", "st": "92.0 ± 0.1 (2)* +2.0↑"}
    assert "Accuracy in % (last epoch), mean ± SD (runs), points over" in shown


def wide():
    """Records of a table with five columns: four of 20 characters or more, and their average."""
    settings = [{"dataset": d, "student": s} for d in ("digits", "svhn") for s in ("a", "longer_b")]
    methods = {"baseline": (89.9, 90.0), "st": (91.9, 92.0), "at": (50.0, 50.3)}
    return [
        each
        for setting in settings
        for method, accuracies in methods.items()
        for each in seeds(method, *accuracies, **setting)
    ]


@pytest.fixture
def terminal(monkeypatch):
    """Make standard output a terminal of a given width."""

    def make(width):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("width", [12, 30, 60, 80, 120, 300])
def test_a_table_is_complete_and_no_wider_than_the_terminal(terminal, width):
    terminal(width)
    shown = render_records(wide(), format_name="terminal")
    assert max(map(len, shown.splitlines())) <= width
    if width > 30:  # no score is broken into lines
        assert shown.count("92.0 ± 0.1 (2)* +2.0↑") == 4
    cells = "".join(text for row in to_rows(table_from(wide()), bold="{}*") for text in row)
    assert not Counter("".join(cells.split())) - Counter(shown)


def test_columns_that_do_not_fit_side_by_side_are_placed_below(terminal):
    terminal(80)
    *tables, _ = render_records(wide(), format_name="terminal").split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert [line.split()[0] for line in table.splitlines()[-3:]] == ["baseline", "at", "st"]


@pytest.mark.parametrize("metric", METRICS)
def test_the_caption_in_the_terminal_has_two_lines_and_the_command_for_the_full_one(
    terminal, metric
):
    terminal(80)
    accuracy = replace(record().accuracy, best_val=90.0)
    records = [measured(replace(r, accuracy=accuracy, teacher_images=500)) for r in wide()]
    shown = render_records(records, metric=metric, format_name="terminal")
    *_, caption = shown.strip().split("\n\n")
    assert len(caption.splitlines()) == 2
    assert "kd-bench table --format markdown" in caption.replace("\n", " ")


@pytest.mark.parametrize("width", range(60, 110, 7))
def test_a_command_is_not_broken_at_its_hyphens(terminal, width):
    terminal(width)
    assert "kd-\n" not in render_records(wide(), format_name="terminal")


def test_warnings_and_a_note_are_shown_in_the_terminal_too():
    records = [*SOFT, record("st", 3, dirty=True)]
    shown = render_records(records, format_name="terminal", note="A smoke test.")
    assert [line.partition(":")[0] for line in shown.splitlines()[-3:]] == [
        "A smoke test.",
        "Warning",
        "Warning",
    ]


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(UserError, match=f"'html'.*{', '.join(FORMAT_NAMES)}"):
        render_records(BASELINE, format_name="html")


def test_each_format_has_the_function_of_its_name():
    table = table_from(BASELINE + SOFT)
    for name in FORMAT_NAMES:
        assert render_table(table, name) == getattr(render, name)(table)
