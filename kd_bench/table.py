"""Cells to text: Markdown, terminal, LaTeX and CSV, each with its protocol beneath."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median, stdev

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid

from kd_bench.cells import BASELINE, Average, Cell, Column, Table, table_from
from kd_bench.labels import spelled
from kd_bench.utils.errors import require
from kd_bench.utils.formatting import duration

EPOCH = {
    "last": "at the last epoch",
    "best": "at the best test epoch (test-selected: too high by what the choice gains)",
    "best-val": "at the epoch that is best on the validation images",
}
METRIC_NAME = {"last": "last", "best": "best (test-selected)", "best-val": "best-val"}
MANY = 3  # of a list in the caption; the rest is counted


# Cells as text


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text  # neither +0.0 nor -0.0


def spread(values: Sequence[float], digits: int) -> str:
    """`93.9 ± 0.8 (3)`: mean, sample SD and n; a single value has no deviation."""
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f} ({len(values)})" if len(values) > 1 else mean


def score(cell: Cell, digits: int) -> str:
    """`93.9 ± 0.8 (3)`, `93.9 (1)`, or nothing where no run ended well."""
    if not cell.n:
        return ""
    values = list(cell.values.values())
    return spread(values, digits) + (" (1)" if cell.n == 1 else "")


def difference(cell: Cell, digits: int) -> str:
    """`+1.1`, and where it rests on fewer seeds than the score, `+1.1 (2 paired)`."""
    if not cell.delta:
        return ""
    pairs = f" ({cell.delta.pairs} paired)" if cell.delta.pairs != cell.n else ""
    return _signed(cell.delta.mean, digits) + pairs


def cell_text(cell: Cell | None, digits: int, bold: str = "{}") -> str:
    """`93.9 ± 0.8 (3) +1.1`, `93.9 ± 0.1 (2), 1 failed`, `failed`; empty for a missing cell."""
    if cell is None:
        return ""
    if not cell.n:
        return "failed"
    number = bold.format(score(cell, digits)) if cell.bold else score(cell, digits)
    failed = f", {cell.failed} failed" if cell.failed else ""
    return f"{number} {difference(cell, digits)}".rstrip() + failed


def _average_text(average: Average | None, digits: int) -> str:
    if average is None:
        return ""
    delta = "" if average.delta is None else f" {_signed(average.delta, digits)}"
    return f"{average.mean:.{digits}f}{delta}"


def grid(table: Table, bold: str = "{}") -> list[list[str]]:
    """The heading, a line for the teachers where there are any, and a line for each row, as text.

    Args:
        table: the table.
        bold: how the best scores are written, with {} for the score.
    """
    kind = "" if table.metric == "last" else f", {METRIC_NAME[table.metric]}"
    upright = [["method", "teacher", *table.rows]]
    for column in table.columns:
        under = table.under(column)
        cells = [cell_text(under.get(row), column.digits, bold) for row in table.rows]
        upright.append([column.label + kind, _teachers(column), *cells])
    if table.averages:
        digits = min(column.digits for column in table.columns)
        cells = [_average_text(table.averages.get(row), digits) for row in table.rows]
        upright.append(["average" + kind, _teacher_average(table.columns, digits), *cells])
    lines = [list(line) for line in zip(*upright, strict=True)]
    return [line for line in lines if line[0] != "teacher" or any(line[1:])]


def _teachers(column: Column) -> str:
    return spread(column.teachers, column.digits) if column.teachers else ""


def _teacher_average(columns: Sequence[Column], digits: int) -> str:
    if not all(column.teachers for column in columns):
        return ""
    return f"{fmean(fmean(column.teachers) for column in columns):.{digits}f}"


# The protocol, in sentences


def _listed(names: Iterable[str], most: int | None = None) -> str:
    names = list(names)
    shown = names[:most]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _each(runs: pd.DataFrame, key: str) -> str:
    return _listed(sorted({str(value) for value in runs[key].dropna()}))


def _range(values: Iterable[float], digits: int) -> str:
    low, high = (f"{edge(values):.{digits}f}" for edge in (min, max))
    return low if low == high else f"{low} to {high}"


def _images(columns: Iterable[Column]) -> str:
    """What was scored: "digits (1,297 test images, 500 for training)"."""
    told = []
    for column in columns:
        if column.images:
            held_out = column.images.get("validation", 0)
            chosen = f", {held_out:,} for validation" if held_out else ""
            told.append(
                f"{column.dataset} ({column.images['test']:,} test images,"
                f" {column.images['train']:,} for training{chosen})"
            )
    return ", ".join(dict.fromkeys(told))


def _protocol(table: Table) -> str:
    done = table.runs[~table.runs["failed"]]
    seeds = _listed(str(seed) for seed in sorted(set(done["seed"])))
    return (
        f"Accuracy in percent of all test images {EPOCH[table.metric]}, mean ± sample SD (n runs;"
        f" seeds {seeds}). Data {_images(table.columns)}; recipe {_each(done, 'trained')};"
        f" speed mode {_each(done, 'speed')}; device {_each(done, 'device')};"
        f" kd_bench {_each(done, 'kd_bench')}, torch {_each(done, 'torch')}."
    )


def _cost(table: Table) -> str:
    """What the runs of a table took, those of its teachers left out."""
    runs = table.runs[~table.runs["failed"]].drop_duplicates("folder")
    low, high = (f"{edge(runs['pace']):,.0f}" for edge in (min, max))
    pace = low if low == high else f"{low} to {high}"
    return f"Training took these runs {duration(runs['seconds'].sum())}, at {pace} images/s each."


def _deltas(table: Table) -> str:
    """What a signed number is, and how far it can be trusted."""
    if not any(cell.delta for cell in table.cells.values()):
        return ""
    told = "A signed number is the mean difference to the baseline in points, paired by seed"
    by_column = [_half_widths(table.under(column).values()) for column in table.columns]
    widths = [median(found) for found in by_column if found]
    if not widths:
        return f"{told}; with one seed a cell, nothing tells how far it may be chance."
    digits = min(column.digits for column in table.columns)
    pools = [column.deviation for column in table.columns if column.deviation]
    return (
        f"{told}; its 95 % interval is about ± {_range(widths, digits)} (SD of runs pooled over a"
        f" column: {_range([pool.sd for pool in pools], digits)},"
        f" {_range([pool.df for pool in pools], 0)} degrees of freedom; runs taken as independent)."
    )


def _half_widths(cells: Iterable[Cell]) -> list[float]:
    deltas = [cell.delta for cell in cells if cell.delta]
    return [delta.half_width for delta in deltas if delta.half_width is not None]


def _boldness(table: Table, mark: str) -> str:
    """What is marked as best, and where nothing is."""
    compared = [column for column in table.columns if len(table.under(column)) > 1]
    plain = [c.label for c in compared if not any(cell.bold for cell in table.under(c).values())]
    if not compared:
        return ""
    if len(plain) == len(compared):
        return "Nothing is marked as best: the seeds tell no method from the best."
    told = (
        f"{mark}: the best of a column and every method not told from it (95 % interval of the"
        " difference, same SD, not corrected for the number of methods)."
    )
    return f"{told} No method is told from the best in {_listed(plain, MANY)}." if plain else told


def _teacher_sentence(table: Table) -> str:
    if not any(column.teachers for column in table.columns):
        return ""
    return "One teacher, of one seed, stands behind a column: its variance is not in the ±."


def caption(table: Table, mark: str = "Bold") -> list[str]:
    """The protocol behind the numbers, in sentences.

    Args:
        table: the table.
        mark: how the best scores are marked, as the first word of a sentence.
    """
    sentences = [
        _protocol(table),
        _cost(table),
        _deltas(table),
        _boldness(table, mark),
        _teacher_sentence(table),
        table.note,
    ]
    return [sentence for sentence in sentences if sentence]


def _mixed(runs: pd.DataFrame, key: str) -> list[str]:
    """The cells whose runs do not agree on a key: "st in digits a-b (abc1234, def5678)"."""
    told = []
    for (row, column), cell in runs.groupby(["row", "column"]):
        values = sorted(set(cell[key]))
        if len(values) > 1:
            told.append(f"{row} in {column} ({', '.join(value[:12] for value in values)})")
    return told


def _without_baseline(table: Table) -> list[str]:
    cells = {column.label: table.under(column) for column in table.columns}
    return [
        label
        for label, under in cells.items()
        if any(cell.n for cell in under.values()) and not (BASELINE in under and under[BASELINE].n)
    ]


def warnings(table: Table) -> list[str]:
    """What a reader must know before believing the numbers, in sentences."""
    done = table.runs[~table.runs["failed"]]
    changed = done[done["dirty"].astype(bool)]
    dirty = dict.fromkeys(f"{row} in {column}" for row, column in changed[["row", "column"]].values)
    several = [f"{c.label} ({len(c.teachers)})" for c in table.columns if len(c.teachers) > 1]
    failed = [f"{each['folder']} ({each['reason']})" for each in table.unplaced]
    told = {
        "runs of several commits in one cell": _mixed(done, "commit"),
        "runs of several versions of kd_bench in one cell": _mixed(done, "kd_bench"),
        "runs of several versions of torch in one cell": _mixed(done, "torch"),
        "made from a changed working tree": list(dirty),
        "several teachers behind a column": several,
        "no finished baseline, hence no differences to it": _without_baseline(table),
        "failed, and in no cell": failed,
    }
    return [f"{what}: {_listed(where, MANY)}." for what, where in told.items() if where]


# Formats


def markdown(table: Table) -> str:
    """A GitHub table, its protocol, its warnings and the command that makes it."""
    lines = [[text.replace("|", "\\|") for text in line] for line in grid(table, bold="**{}**")]
    ruler = [":--"] + ["--:"] * (len(lines[0]) - 1)
    rows = [f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:])]
    parts = ["\n".join(rows), " ".join(caption(table))]
    parts += [f"**Warning**: {warning}" for warning in warnings(table)]
    parts += [f"`{table.command}`"] if table.command else []
    return "\n\n".join(parts) + "\n"


def terminal(table: Table) -> str:
    """A table for a terminal; the best are marked with a star, which survives a log file."""
    heading, *rows = grid(table, bold="{}*")
    picture = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(heading):
        picture.add_column(name, justify="right" if number else "left")
    for row in rows:
        picture.add_row(*row)
    out = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    Console(file=out, width=width, highlight=False, markup=False).print(picture)
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    told = caption(table, mark="*") + [f"Warning: {warning}" for warning in warnings(table)]
    return "\n".join([*lines, "", textwrap.fill(" ".join(told), 100)]) + "\n"


LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\x02": r"\textbf{",  # what `latex` puts around the best: no text of ours holds these two
    "\x03": "}",
}


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text).replace(" -", " $-$")


def latex(table: Table) -> str:
    """A floating table for a paper that loads booktabs, with the protocol as its caption."""
    cells = [[_latex_text(text) for text in line] for line in grid(table, bold="\x02{}\x03")]
    heading, *rows = [" & ".join(line) + r" \\" for line in cells]
    told = _latex_text(" ".join(caption(table) + warnings(table)))
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
        rf"\caption{{{told}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _csv_line(table: Table, row: str, column: Column) -> dict:
    cell = table.cells[row, column.label]
    delta, width = cell.delta, cell.delta.half_width if cell.delta else None
    return {
        "dataset": column.dataset,
        "pair": column.pair,
        "recipe": column.recipe,
        "speed": column.speed,
        "method": table.rows[row],
        "changed": "; ".join(f"{k}={spelled(v)}" for k, v in sorted(cell.changed.items())),
        "metric": METRIC_NAME[table.metric],
        "n": cell.n,
        "mean": cell.mean,
        "sd": cell.sd,
        "delta": delta.mean if delta else None,
        "delta_low": None if width is None else delta.mean - width,
        "delta_high": None if width is None else delta.mean + width,
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
    return pd.DataFrame(lines).to_csv(index=False, float_format="%.4f", lineterminator="\n")


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "terminal": terminal,
    "latex": latex,
    "csv": csv,
}


def render(
    records: Sequence[Mapping],
    failures: Sequence[Mapping] = (),
    *,
    metric: str = "last",
    format: str = "terminal",
    order: Sequence[str] = (),
    choice: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
) -> str:
    """The results table of some records as text, in one of `FORMATS`; see `cells.table_from`."""
    require(format in FORMATS, f"no format '{format}'; there are {', '.join(FORMATS)}")
    table = table_from(records, failures, metric=metric, order=order, choice=choice, note=note)
    return FORMATS[format](table)
