"""The rendered summary of hand-written records, and its caption."""

from __future__ import annotations

import pytest
from helpers.written_records import seeds

from kd_bench.results.rendering.summaries import render_summary
from kd_bench.results.table import table_from
from kd_bench.utils.errors import UserError


def on_pair(student, **accuracies):
    return [
        r for method, value in accuracies.items() for r in seeds(method, value, student=student)
    ]


RECORDS = [
    *on_pair("resnet8", baseline=90.0, st=91.0, at=92.0, control_shuffled=90.0, dml=90.0),
    *on_pair("resnet14", baseline=80.0, st=81.0, at=81.0, control_shuffled=78.0),
]


def test_the_markdown_of_a_summary_is():
    assert render_summary(table_from(RECORDS), "markdown") == (
        """\
| method | over 2 pairs: rank | points over baseline | against st |
| :-- | --: | --: | --: |
| baseline | 3.0 |  | 0 / 0 / 2 |
| at | 1.2 | +1.5 (+1.0 to +2.0) | 1 / 1 / 0 |
| st | 1.8 | +1.0 (+1.0 to +1.0) |  |
| *controls:* |  |  |  |
| control_shuffled | 1.0 | -1.0 (-2.0 to 0.0) | 0 / 0 / 2 |

The 4 methods with runs on all 2 pairs: average rank on a pair by mean (1 is the best; equal \
means share their ranks; methods are ranked within their group). In \
points, the mean over pairs of the difference from the baseline, with its 95 % interval for \
pairs and seeds like these (percentile bootstrap over both, 10,000 resamples; with so few \
pairs, it is probably too short). Against st: the number of pairs on which the displayed mean is \
better than / equal to / worse than that of st. Not on all pairs: dml.
"""
    )


def test_numbers_that_no_row_has_are_neither_shown_nor_explained():
    records = [*on_pair("resnet8", at=90.0, dkd=91.0), *on_pair("resnet14", at=80.0, dkd=81.0)]
    text = render_summary(table_from(records), "markdown")
    assert text.startswith("| method | over 2 pairs: rank |\n")
    assert "bootstrap" not in text
    assert "gainst" not in text


def test_the_terminal_has_a_line_about_the_numbers():
    text = render_summary(table_from(RECORDS), "terminal")
    assert "+1.5 (+1.0 to +2.0)" in text
    assert "Average rank of the methods with runs on all 2 pairs, mean points" in text


def test_latex_has_a_separate_table():
    text = render_summary(table_from(RECORDS), "latex")
    assert r"at & 1.2 & +1.5 (+1.0 to +2.0) & 1 / 1 / 0 \\" in text
    assert r"\emph{controls:} &  &  &  \\" in text
    assert text.count(r"\begin{table}") == 1


def test_csv_has_no_second_table():
    with pytest.raises(UserError, match="--summary is for terminal, markdown, latex, not for csv"):
        render_summary(table_from(RECORDS), "csv")
