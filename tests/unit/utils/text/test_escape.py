"""Untrusted text in each output format: it is shown literally, and has no effect."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
from helpers.paths import PACKAGE
from helpers.written_records import failure, seeds
from hypothesis import given, strategies
from rich.console import Console

from kd_bench.results.figures.differences import svg
from kd_bench.results.rendering.tables import render_records
from kd_bench.results.table import table_from
from kd_bench.sweep import display
from kd_bench.utils.text import escape
from kd_bench.utils.text.output import print_lines

HTML = "<img src=x onerror=alert(1)>"
TERMINAL = "\x1b]0;title\x07\x1b[2J\u202e\x9b31m"
FORMULA = '=HYPERLINK("http://x","y")'
LATEX = r"\input{/etc/passwd}"
MATHS = "$x_{$"
EVIL = [HTML, TERMINAL, FORMULA, LATEX, MATHS, "a|b", "`code`", "[red]x[/] :bug:", "two\nlines"]


def written(format_name, text):
    """A table with the text as a key, a value and the reason of a failure."""
    changed = {f"method.losses.st.{text}": text}
    records = seeds("baseline", 80.0, 81.0) + seeds("st", 85.0, 86.0, changed=changed)
    lost = failure(seeds("at", 80.0)[0], 7)
    reason = type(lost)(lost.folder, f"ValueError: {text}")
    return render_records(records, [reason], format_name=format_name)


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("format_name", ["terminal", "markdown", "latex", "csv"])
def test_no_format_contains_unprintable_characters(format_name, text):
    assert all(line.isprintable() for line in written(format_name, text).splitlines())


def test_html_is_escaped_in_markdown():
    assert "<" not in written("markdown", HTML)
    assert "&lt;img src=x onerror=alert(1)&gt;" in written("markdown", HTML)


@pytest.mark.parametrize("text", ["a|b", "two\nlines", "`", "**", "\\|"])
def test_no_name_breaks_a_markdown_table(text):
    rows = [line for line in written("markdown", text).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {3}
    assert len(rows) == 5  # heading, ruler, teacher, baseline, st


def test_no_csv_cell_is_a_formula():
    rows = list(csv.reader(io.StringIO(written("csv", FORMULA))))
    assert any("HYPERLINK" in cell for row in rows for cell in row)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    assert escape.csv(FORMULA) == f"'{FORMULA}"
    assert escape.csv("-1+1") == "'-1+1"
    assert escape.csv("st") == "st"


def test_latex_is_escaped_in_latex():
    assert r"\input" not in written("latex", LATEX)
    assert r"\textbackslash{}input\{/etc/passwd\}" in written("latex", LATEX)


@pytest.mark.slow
@pytest.mark.parametrize("text", EVIL)
def test_a_figure_with_any_name_is_valid_xml(text):
    changed = {f"method.losses.st.{text}": 1}
    records = seeds("baseline", 80.0, 81.0) + seeds("st", 85.0, 86.0, changed=changed)
    picture = svg(table_from(records))
    ElementTree.fromstring(picture)
    assert "<img" not in picture


def test_ordinary_names_are_not_changed():
    for text in ("feature_mse", "resnet8x4", "st (temperature=8)", "cifar10_jpg resnet20-resnet8"):
        assert escape.markdown(text) == escape.printable(text) == escape.csv(text) == text
    assert escape.printable("± é – ×") == "± é – ×"
    assert escape.printable("\udcff") == r"\udcff"  # a byte of a file name that is not UTF-8


@given(strategies.text())
def test_any_text_becomes_a_printable_line(text):
    line = escape.printable(text)
    assert line.isprintable()
    assert escape.printable(line) == line
    line.encode()


def test_printed_lines_are_escaped(capsys):
    print_lines(TERMINAL, "two\nlines", HTML)
    assert capsys.readouterr().out == (
        r"\x1b]0;title\x07\x1b[2J\u202e\x9b31m" + "\n" + r"two\nlines" + f"\n{HTML}\n"
    )


def test_a_sweep_does_not_interpret_markup(monkeypatch, capsys):
    monkeypatch.setattr(display, "Console", lambda **given: Console(force_terminal=True, **given))
    display.SweepDisplay(1).message(f"[red]x[/] :bug: {TERMINAL}")
    assert capsys.readouterr().out == f"[red]x[/] :bug: {escape.printable(TERMINAL)}\n"


def test_only_the_module_that_escapes_text_prints():
    printing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(?<![\w.])print\(|sys\.stdout\.write", path.read_text())
    }
    assert printing == {"utils/text/output.py"}
