"""kd-bench table prints the results table of finished runs."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from helpers.written_records import failure, record, seeds, write

from kd_bench.results.options import FILTERS, FORMAT_NAMES, METRICS
from kd_bench.results.record import Failure
from kd_bench.results.run_folder import ERROR, read_record
from kd_bench.results.study import STUDY, Study, Trial
from kd_bench.utils.files import write_json

RECORDS = [*seeds("baseline", 89.0, 90.0, 91.0), *seeds("st", 91.0, 92.0, 93.0)]


@pytest.fixture
def runs(tmp_path):
    """runs/ in the test's folder with a baseline, a method and a failed job."""
    write(tmp_path / "runs", RECORDS)
    failed: Failure = failure(record("at"), 0)
    folder = tmp_path / "runs" / failed.folder
    folder.mkdir(parents=True)
    (folder / ERROR).write_text(f"{failed.reason}\n")
    return tmp_path / "runs"


def test_a_table_has_finished_runs_and_failures(kd_bench, runs):
    code, printed = kd_bench("table")
    assert code == 0
    rows = [line.split() for line in printed.splitlines()]
    assert ["st", "92.0", "±", "1.0", "(3)", "+2.0"] in rows
    assert record("at").folder in printed.replace("\n", "")
    assert "FloatingPointError" in printed


def test_a_finished_job_is_in_the_table(kd_bench, finished):
    code, printed = kd_bench("table", "--dataset", "synthetic")
    assert code == 0
    assert "synthetic resnet20-resnet8_half" in printed
    assert "st" in [line.split()[0] for line in printed.splitlines() if line.strip()]


@pytest.mark.parametrize(
    "words", [["--from", "other"], ["--runs-dir", "other"], ["runs_dir=other"]]
)
def test_another_folder_can_be_chosen(kd_bench, tmp_path, words):
    write(tmp_path / "other", [record(accuracy=12.5)])
    assert "12.5 (1)" in kd_bench("table", *words)[1]


@pytest.mark.slow
def test_each_format_is_printed_and_markdown_has_its_command(kd_bench, runs):
    expected = {"terminal": "st", "markdown": "| st |", "latex": "st &", "csv": ",st,,last,3,"}
    assert expected.keys() == set(FORMAT_NAMES)
    for name, text in expected.items():
        code, printed = kd_bench("table", "--format", name)
        assert code == 0
        assert text in printed
    assert "`kd-bench table --format markdown`" in kd_bench("table", "--format", "markdown")[1]


def test_the_printed_csv_is_the_written_csv(kd_bench, runs):
    code, printed = kd_bench("table", "--format", "csv", "--csv", "new/cells.csv")
    assert code == 0
    text = Path("new/cells.csv").read_text()
    assert printed.startswith(text)  # followed by the name of the file
    assert "new/cells.csv" in printed.removeprefix(text)
    assert list(pd.read_csv(io.StringIO(text))["mean"]) == [90.0, 92.0]


@pytest.mark.slow
def test_the_figure_is_written(kd_bench, runs):
    assert kd_bench("table", "--figure", "differences.svg")[0] == 0
    assert "difference from the baseline" in Path("differences.svg").read_text()


@pytest.mark.slow
def test_the_plot_of_a_swept_value_is_written(kd_bench, runs):
    write(runs, seeds("st", 90.0, changed={"method.losses.st.temperature": 8}))
    assert kd_bench("table", "--plot", "temperature.svg")[0] == 0
    assert "losses.st.temperature" in Path("temperature.svg").read_text()


@pytest.mark.slow
def test_the_summary_over_pairs_follows_the_table(kd_bench, runs):
    student = "resnet14"
    write(runs, [record(student=student), record("st", accuracy=92.0, student=student)])
    code, printed = kd_bench("table", "--summary", "--profile", "profile.svg")
    assert code == 0
    assert "over 2 pairs: rank" in printed.partition("More:")[2]
    assert "share of 2 pairs" in Path("profile.svg").read_text()


def test_a_summary_of_one_pair_is_a_one_line_error(kd_bench, runs):
    code, printed = kd_bench("table", "--summary")
    assert (code, printed.count("\n")) == (2, 1)
    assert "at least two pairs" in printed


def test_published_values_are_shown_next_to_own_runs(kd_bench, tmp_path):
    pair = {"dataset": "cifar100", "teacher": "resnet32x4", "student": "resnet8x4"}
    write(tmp_path / "runs", [record(accuracy=72.0, **pair), record("st", accuracy=73.0, **pair)])
    code, printed = kd_bench("table", "--published", "--format", "markdown")
    assert code == 0
    assert r"| st | 73.0 (1) +1.0 | *73.33 \[1\]* |" in printed
    assert "https://arxiv.org/abs/1910.10699" in printed


def test_untuned_hides_the_rows_of_studies(kd_bench, runs):
    run = record("st", 0, 95.0, changed={"method.losses.st.temperature": 8})
    write(runs, [run])
    study = Study(0, 10, {}, (Trial({}, 50.0),), run.identity)
    write_json(runs / run.folder / STUDY, study.to_json())
    assert "st (temperature=8, tuned)" in kd_bench("table")[1]
    assert "tuned)" not in kd_bench("table", "--untuned")[1]


def test_published_accuracies_are_not_shown_next_to_other_metrics(kd_bench, runs):
    code, printed = kd_bench("table", "--published", "--metric", "seconds")
    assert (code, printed.count("\n")) == (2, 1)
    assert "published values are accuracies" in printed


@pytest.mark.parametrize("option", ["--figure", "--plot", "--profile"])
def test_figures_in_formats_other_than_svg_are_refused(kd_bench, runs, option):
    code, printed = kd_bench("table", option, "cells.png")
    assert (code, printed.count("\n")) == (2, 1)
    assert f"{option} writes SVG" in printed


@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_keeps_matching_rows_and_refuses_unknown_names(kd_bench, runs, kind):
    values = {
        "dataset": "digits",
        "pair": "resnet20-resnet8",
        "method": "st",
        "recipe": "quickstart",
        "student": "resnet8",
    }
    write(runs, [record("dkd", dataset="svhn", student="resnet14", recipe="crd240")])
    code, printed = kd_bench("table", f"--{kind}", values[kind])
    assert code == 0
    assert "92.0" in printed
    assert "dkd" not in printed
    code, printed = kd_bench("table", f"--{kind}", "nonsense")
    assert code == 2
    assert printed.count("\n") == 1
    assert values[kind] in printed


def test_a_metric_and_a_note_can_be_given(kd_bench, tmp_path):
    write(tmp_path / "runs", [record(accuracy=90.0, best=91.5)])
    _, printed = kd_bench("table", "--metric", "best", "--note", "A smoke test.")
    assert "91.5 (1)" in printed
    assert "A smoke test." in printed


def test_metrics_of_a_finished_job_are_shown(kd_bench, finished):
    metrics = read_record(finished[0]).metrics
    for name, value in {"nll": metrics.nll, "kl": metrics.kl}.items():
        code, printed = kd_bench("table", "--metric", name)
        assert code == 0
        assert f"{value:.3f} (1)" in printed
        assert "nats" in printed
    _, printed = kd_bench("table", "--metric", "ece-scaled")
    assert printed.startswith("kd-bench: no run has ece-scaled; it needs validation images")


@pytest.mark.slow
def test_figures_of_another_metric_are_labelled_with_it(kd_bench, runs):
    write(runs, seeds("st", 90.0, changed={"method.losses.st.temperature": 8}))
    words = ("--metric", "seconds", "--figure", "cost.svg", "--plot", "values.svg")
    assert kd_bench("table", *words)[0] == 0
    assert "difference from the baseline in s:" in Path("cost.svg").read_text()
    assert "seconds: seeds and mean" in Path("values.svg").read_text()


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["--metric", "first"], METRICS),
        (["--format", "html"], FORMAT_NAMES),
        (["--colour", "red"], ["--dataset"]),
        (["--from", "nowhere"], ["kd-bench sweep=quickstart", "--from DIR"]),
        ([], ["kd-bench sweep=quickstart", "--from DIR"]),
    ],
)
def test_a_mistake_is_a_one_line_error_with_the_valid_options(kd_bench, words, choices):
    code, printed = kd_bench("table", *words)
    assert code == 2
    assert printed.count("\n") == 1
    assert all(choice in printed for choice in choices)


def test_help_lists_filters_and_outputs(kd_bench):
    _, printed = kd_bench("table", "--help")
    assert all(f"--{option}" in printed for option in (*FILTERS, "csv", "figure", "from"))
