"""Published values are shown next to the columns of their pairs, and change nothing else."""

from __future__ import annotations

from dataclasses import replace

from helpers.written_records import record, seeds

from kd_bench.results.published.values import Published, Source
from kd_bench.results.rendering.beside import published_for
from kd_bench.results.rendering.caption import caption_sentences
from kd_bench.results.rendering.tables import render_table, to_rows
from kd_bench.results.table import table_from

PAPER = Source("A paper (2020)", "table 1", "https://a.b/c", "last", 5)
CODE = Source("Some code", "README", "https://d.e/f", "best", 1)


def value(method, accuracy, source=PAPER, student="resnet8", sd=None, dataset="digits"):
    return Published(dataset, "resnet20", student, method, accuracy, sd, source)


RECORDS = [*seeds("baseline", 89.9, 90.0, 90.1), *seeds("st", 91.9, 92.0, 92.1)]
VALUES = [
    value("st", 99.0, sd=0.25),
    value("st", 98.0, CODE),
    value("at", 97.0, CODE),
    value("st + standardize", 96.0),
    value("st", 12.0, student="resnet14"),
    value("st", 13.0, dataset="svhn"),
]


def beside(records=RECORDS, methods=()):
    table = table_from(records)
    return replace(table, published=published_for(table, VALUES, methods))


def pictured(table):
    return "\n".join(" | ".join(line) for line in to_rows(table, bold="<{}>", apart="({})"))


def test_published_values_have_a_column_and_methods_without_runs_have_rows():
    assert (
        pictured(beside())
        == """\
method | digits resnet20-resnet8 | digits resnet20-resnet8, published
teacher | 96.1 | 
baseline | 90.0 ± 0.1 (3) | 
st | <92.0 ± 0.1 (3)> +2.0↑ | (99.00 ± 0.25 [1], 98.00 [2])
(published only:) |  | 
at |  | (97.00 [2])
st + standardize |  | (96.00 [1])"""
    )


def test_a_filter_of_methods_applies_to_published_values_too():
    assert pictured(beside(methods=["st"])).splitlines()[-1] == "st + standardize |  | (96.00 [1])"
    assert "at" not in [line[0] for line in to_rows(beside(methods=["st"]))]


def test_the_rest_of_the_table_does_not_change():
    plain, with_values = table_from(RECORDS), beside()
    assert (with_values.cells, with_values.averages) == (plain.cells, plain.averages)
    assert render_table(with_values, "csv") == render_table(plain, "csv")


def test_with_several_versions_of_a_method_the_published_value_has_its_own_row():
    hot = record("st", accuracy=92.0, changed={"method.losses.st.temperature": 8})
    lines = {line[0]: line[1:] for line in to_rows(beside([*RECORDS, hot]))}
    assert lines["st (temperature=4)"][1] == ""
    assert lines["st"] == ["", "99.00 ± 0.25 [1], 98.00 [2]"]


def test_a_pair_of_several_columns_has_one_column_of_published_values():
    heading = to_rows(beside([*RECORDS, *seeds("st", 80.0, recipe="crd240")]))[0]
    assert [name.endswith("published") for name in heading] == [False, False, False, True]


def test_averages_use_only_own_runs():
    more = [*seeds("baseline", 70.0, student="resnet14"), *seeds("st", 72.0, student="resnet14")]
    (line,) = [line for line in to_rows(beside(RECORDS + more)) if line[0] == "st"]
    assert line[-1] == "82.0 +2.0"


def test_the_caption_has_rules_runs_and_sources():
    text = " ".join(caption_sentences(beside()))
    assert "do not enter any mean, difference, rank or mark here: [1] A paper (2020)" in text
    assert "[2] Some code, README: best test epoch, 1 run, https://d.e/f." in text
    assert "ublished values" not in " ".join(caption_sentences(table_from(RECORDS)))


def test_markdown_has_them_in_italics():
    assert r"| *99.00 ± 0.25 \[1\], 98.00 \[2\]* |" in render_table(beside(), "markdown")
