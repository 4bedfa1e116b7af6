"""Tables as text, for a terminal, Markdown, LaTeX and CSV, with the protocol as caption."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

import pandas as pd

from kd_bench.results.analysis.groups import FIRST, Group
from kd_bench.results.labels import format_value
from kd_bench.results.options import FORMAT_NAMES, METRIC, METRICS
from kd_bench.results.record import Failure, Record
from kd_bench.results.rendering import beside
from kd_bench.results.rendering.caption import (
    EFFECT_MARKS,
    UNPROVEN_MARK,
    caption_sentences,
    caveats,
    short_caption,
)
from kd_bench.results.table import Average, Cell, Column, Table, table_from
from kd_bench.utils.errors import require
from kd_bench.utils.text import escape
from kd_bench.utils.text.grid import UNLIMITED, side_by_side

Escape = Callable[[str], str]

EFFECT_WORDS = {1: "above", -1: "below", 0: ""}  # significantly above or below the baseline


def signed(value: float, digits: int) -> str:
    """`+1.1`, `-0.3`, and `0.0` without a sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text  # neither +0.0 nor -0.0


def mean_sd_text(values: Sequence[float], digits: int) -> str:
    """`93.9 ± 0.8 (3)`: mean, sample SD and n; only the mean for a single value."""
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f} ({len(values)})" if len(values) > 1 else mean


def cell_score(cell: Cell, digits: int) -> str:
    """`93.9 ± 0.8 (3)`, `93.9 (1)`, or empty if all runs failed."""
    if not cell.n:
        return ""
    values = list(cell.values.values())
    return mean_sd_text(values, digits) + (" (1)" if cell.n == 1 else "")


def difference(cell: Cell, digits: int) -> str:
    """`+1.1`, significant `+2.1↑`, or `+1.1 (2 paired)` if it uses fewer seeds than the score."""
    if not cell.delta:
        return ""
    pairs = f" ({cell.delta.pairs} paired)" if cell.delta.pairs != cell.n else ""
    return signed(cell.delta.mean, digits) + EFFECT_MARKS[cell.effect] + pairs


def cell_text(
    cell: Cell | None, digits: int, bold: str = "{}", escaped: Escape = escape.printable
) -> str:
    """`93.9 ± 0.8 (3) +1.1†`, `93.9 ± 0.1 (2), 1 failed`, `failed`; empty for a missing cell."""
    if cell is None:
        return ""
    if not cell.n:
        return "failed"
    score = escaped(cell_score(cell, digits))
    failed = f", {cell.failed} failed" if cell.failed else ""
    unproven = UNPROVEN_MARK if cell.unproven else ""
    rest = f" {difference(cell, digits)}".rstrip() + unproven + failed
    return (bold.format(score) if cell.bold else score) + escaped(rest)


def _average_text(average: Average | None, digits: int) -> str:
    if average is None:
        return ""
    delta = "" if average.delta is None else f" {signed(average.delta, digits)}"
    return f"{average.mean:.{digits}f}{delta}"


def to_rows(
    table: Table,
    bold: str = "{}",
    escaped: Escape = escape.printable,
    apart: str = "{}",
    pages: Mapping[str, str] | None = None,
) -> list[list[str]]:
    """The heading, the teachers' line if there are any, and a line for each row, as text.

    Each group but the first is preceded by a line with its name.

    Args:
        table: the table.
        bold: format of the best scores, with {} for the score.
        escaped: escapes all other text for the format.
        apart: format of group names and published values, with {} for the text.
        pages: link targets, by row label.
    """
    own = beside.rows_of_their_own(table)
    kind = "" if table.metric == METRICS[0] else f", {METRIC[table.metric].heading}"
    names = {row: escaped(row) for row in table.rows}
    names |= {row: f"[{names[row]}]({target})" for row, target in (pages or {}).items()}
    columns = [["method", "teacher", *names.values(), *map(escaped, own)]]
    for column in table.columns:
        under = table.under(column)
        cells = [cell_text(under.get(row), column.digits, bold, escaped) for row in table.rows]
        cells += [""] * len(own)
        columns.append([escaped(column.label + kind), escaped(_teachers(column)), *cells])
        if beside.has_published(table, column):
            columns.append(_published(table, column, own, escaped, apart))
    if table.averages:
        digits = min(column.digits for column in table.columns)
        cells = [_average_text(table.averages.get(row), digits) for row in table.rows]
        cells += [""] * len(own)
        average = ["average" + kind, _teacher_average(table.columns, digits), *cells]
        columns.append([escaped(text) for text in average])
    heading, teachers, *rows = ([*line] for line in zip(*columns, strict=True))
    has_teachers = METRIC[table.metric].is_accuracy and any(teachers[1:])
    lines = [heading, *([teachers] if has_teachers else [])]
    named = dict(zip(table.rows, rows, strict=False))
    lines += below_groups(named, table.groups, lambda name: apart.format(escaped(f"{name}:")))
    if own:
        heading_of_own = apart.format(f"{beside.HEADING} only:")
        lines += [[heading_of_own] + [""] * (len(heading) - 1), *rows[len(named) :]]
    return lines


def _published(
    table: Table, column: Column, own: Sequence[str], escaped: Escape, apart: str
) -> list[str]:
    """Heading, empty teacher, and published values: of the table's rows, then of other methods."""
    texts = beside.published_texts(table, column)
    by_row = {beside.row_of(table, method): text for method, text in texts.items()}
    found = [*(by_row.get(row, "") for row in table.rows), *(texts.get(name, "") for name in own)]
    cells = [apart.format(escaped(text)) if text else "" for text in found]
    return [escaped(f"{column.dataset} {column.pair}, {beside.HEADING}"), "", *cells]


def below_groups(
    rows: Mapping[str, list[str]], groups: Mapping[str, Group], heading: Escape
) -> list[list[str]]:
    """The lines of the rows, with a line with its name before each group but the first.

    Args:
        rows: the cells of each row, by label.
        groups: by label.
        heading: formats the name of a group.
    """
    lines = []
    above = FIRST
    for row, line in rows.items():
        if groups[row] != above:
            above = groups[row]
            lines.append([heading(str(above))] + [""] * (len(line) - 1))
        lines.append(line)
    return lines


def _teachers(column: Column) -> str:
    return mean_sd_text(column.teachers, column.digits) if column.teachers else ""


def _teacher_average(columns: Sequence[Column], digits: int) -> str:
    if not all(column.teachers for column in columns):
        return ""
    return f"{fmean(fmean(column.teachers) for column in columns):.{digits}f}"


def markdown(table: Table) -> str:
    """A GitHub table with its caption, its warnings and the command that generates it."""
    rows = to_rows(table, "**{}**", escape.markdown, "*{}*", table.pages)
    parts = [markdown_grid(rows), " ".join(map(escape.markdown, caption_sentences(table)))]
    parts += [f"**Warning**: {escape.markdown(warning)}" for warning in caveats(table)]
    parts += [f"`{table.command}`"] if table.command else []
    return "\n\n".join(parts) + "\n"


def markdown_grid(rows: Sequence[Sequence[str]]) -> str:
    """The heading and the rows as a GitHub table, with right-aligned numbers."""
    ruler = [":--"] + ["--:"] * (len(rows[0]) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (rows[0], ruler, *rows[1:]))


def terminal(table: Table) -> str:
    """A table that fits the terminal's width, a caption of two lines, and warnings.

    Columns that do not fit side by side continue below. The best are marked with a star, which is
    also readable in a log file.
    """
    notes = [table.note] * bool(table.note) + [f"Warning: {text}" for text in caveats(table)]
    rows = to_rows(table, "{}*", escape.printable)
    return terminal_grid(rows, [short_caption(table, mark="*"), *notes])


def terminal_grid(rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """The heading and the rows as a table that fits the terminal, followed by notes."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    lines = [_wrapped(escape.printable(text), width) for text in notes]
    return "\n\n".join([*side_by_side(rows, width), "\n".join(lines)]) + "\n"


def _wrapped(text: str, width: int) -> str:
    """Wrap text to lines of readable length that fit the terminal, without splitting names."""
    return textwrap.fill(text, min(width, 100), break_on_hyphens=False)


def latex(table: Table) -> str:
    """A floating table with a caption; it requires the LaTeX package booktabs."""
    rows = to_rows(table, r"\textbf{{{}}}", escape.latex, r"\emph{{{}}}")
    return latex_float(rows, caption_sentences(table) + caveats(table))


def latex_float(cells: Sequence[Sequence[str]], sentences: Sequence[str]) -> str:
    """The heading and the rows as a floating table, with the sentences as caption."""
    heading, *rows = [" & ".join(line) + r" \\" for line in cells]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(cells[0]) - 1)}}}",
        r"\toprule",
        heading,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape.latex(' '.join(sentences))}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _csv_line(table: Table, row: str, column: Column) -> dict[str, object]:
    cell, group = table.cells[row, column.label], table.groups[row]
    mean = cell.delta.mean if cell.delta else None
    width = cell.delta.half_width if cell.delta else None
    return {
        "dataset": column.dataset,
        "pair": column.pair,
        "recipe": column.recipe,
        "speed": column.speed,
        "kind": group.kind.name.lower(),
        "views_per_step": group.budget.views_per_step,
        "extra_epochs": group.budget.extra_epochs,
        "method": table.rows[row],
        "changed": "; ".join(f"{k}={format_value(v)}" for k, v in sorted(cell.changed.items())),
        "metric": METRIC[table.metric].heading,
        "n": cell.n,
        "mean": cell.mean,
        "sd": cell.sd,
        "delta": mean,
        "delta_low": mean - width if mean is not None and width is not None else None,
        "delta_high": mean + width if mean is not None and width is not None else None,
        "significantly": EFFECT_WORDS[cell.effect],
        "teacher_accuracy": fmean(column.teachers) if column.teachers else None,
        "seeds": " ".join(map(str, cell.values)),
        "values": " ".join(f"{value:.4f}" for value in cell.values.values()),
        "failed": cell.failed,
    }


def csv(table: Table) -> str:
    """One line per cell, in the order of the table: accuracy in percent, deltas in points."""
    lines = [
        _csv_line(table, row, column)
        for column in table.columns
        for row in table.rows
        if (row, column.label) in table.cells
    ]
    for line in lines:
        line.update({k: escape.csv(v) for k, v in line.items() if isinstance(v, str)})
    return pd.DataFrame(lines).to_csv(index=False, float_format="%.4f", lineterminator="\n")


_FORMATS: dict[str, Callable[[Table], str]] = dict(
    zip(FORMAT_NAMES, (terminal, markdown, latex, csv), strict=True)
)


def render_table(table: Table, format_name: str) -> str:
    """A table as text.

    Args:
        table: the table.
        format_name: one of `options.FORMAT_NAMES`.
    """
    require(
        format_name in _FORMATS,
        f"unknown format '{format_name}'; choose from {', '.join(FORMAT_NAMES)}",
    )
    return _FORMATS[format_name](table)


def render_records(
    records: Sequence[Record],
    failures: Sequence[Failure] = (),
    *,
    metric: str = METRICS[0],
    format_name: str = FORMAT_NAMES[0],
    order: Sequence[str] = (),
    choice: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
) -> str:
    """The results table of records as text; see `table_from` and `render_table`."""
    table = table_from(records, failures, metric=metric, order=order, choice=choice, note=note)
    return render_table(table, format_name)
