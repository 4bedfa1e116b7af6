"""A page for each method with results: paper, formula, YAML, and every run with its curve."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from documentation import catalogue
from documentation.catalogue import PAGES
from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import FIRST, Kind
from kd_bench.results.figures import curves
from kd_bench.results.markdown import Files
from kd_bench.results.record import Record
from kd_bench.results.rendering.report.content import Run, with_curves
from kd_bench.results.rendering.tables import cell_score, difference, markdown_grid, signed
from kd_bench.results.run_folder import RESULT
from kd_bench.results.store import find_placed_records
from kd_bench.results.table import Cell, Column, Table, table_from
from kd_bench.utils.errors import require
from kd_bench.utils.text import escape
from kd_bench.utils.text.formatting import pluralize

PICTURES = PAGES / "curves"
MARK = "<!-- Made by python tools/pages.py --write -->"
link = partial(escape.link, start=PAGES)
SUMMARY = ("data and pair", "accuracy", "baseline", "difference", "95 % interval", "verdict")
RUNS = ("seed", "last", "best (epoch)", "teacher", "recipe", "seconds", "record")
VERDICTS = {1: "significantly better", -1: "significantly worse", 0: "no significant difference"}
CAPTION = """\
Accuracy in percent of all test images at the last epoch, mean ± sample SD (seeds). The interval is
of the difference, from the deviation pooled over all rows of the same data, pair and recipe;
differences are significant at 5 % for all methods there together (Holm).
[What a number means](../protocol.md)"""
CURVES = "Lines are means over the seeds, bands reach from the lowest to the highest seed."


class Results:
    """The published runs and their table.

    Args:
        folder: of the records.
    """

    def __init__(self, folder: Path):
        runs = with_curves(find_placed_records(folder))
        require(len(runs) > 0, f"there are no records in {folder}")
        self.table = table_from([run.record for run in runs])
        self.folders = {run.record.folder: run.folder for run in runs}
        by_folder = {run.record.folder: run for run in runs}
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)  # by row and column
        frame = self.table.runs.sort_values("seed")
        for row, column, path in zip(frame["row"], frame["column"], frame["folder"], strict=True):
            self.runs[row, column].append(by_folder[path])

    @property
    def methods(self) -> list[str]:
        """The methods with runs in the table, sorted."""
        return sorted(set(self.table.runs["method"]))

    def cells(self, method: str) -> Iterator[tuple[str, Column, Cell]]:
        """The rows of a method, including plug-ins and changed values, in each of their columns."""
        methods = dict(zip(self.table.runs["row"], self.table.runs["method"], strict=True))
        for column in self.table.columns:
            for row, cell in self.table.under(column).items():
                if methods[row] == method:
                    yield row, column, cell


def pages(results: Results) -> Files:
    """All pages and pictures, by path."""
    known = catalogue.names(catalogue.METHODS)
    files: Files = {}
    for method in results.methods:
        require(method in known, f"there are results of {method}, but no conf/method/{method}.yaml")
        pictures: dict[tuple[str, str], str] = {}
        for row, column, _ in results.cells(method):
            bands = _bands(results, row, column)
            if bands:
                path = PICTURES / f"{_file_name(row, column)}.svg"
                require(path not in files, f"two cells are drawn into {path}")
                files[path] = curves.svg(bands)
                text = f"Test accuracy by epoch of {' and '.join(bands)}"
                pictures[row, column.label] = f"![{escape.markdown(text)}]({link(path)})"
        files[PAGES / f"{method}.md"] = _page(results, method, pictures)
    return files


def index(methods: Sequence[str]) -> str:
    """Links from docs/ to the page of each method, in one line of Markdown."""
    return ", ".join(f"[{method}]({PAGES.name}/{method}.md)" for method in methods)


def _bands(results: Results, row: str, column: Column) -> dict[str, curves.Band]:
    """The curves of a row and of the baseline; empty if the row's runs have no histories."""
    found = {}
    for name in dict.fromkeys((row, BASELINE)):
        of_seeds = [run.curve for run in results.runs.get((name, column.label), []) if run.curve]
        if of_seeds:
            found[name] = curves.band(of_seeds)
    return found if row in found else {}


def _file_name(row: str, column: Column) -> str:
    return re.sub(r"[^\w.-]+", "_", f"{row} {column.label}").strip("_")


def _page(results: Results, method: str, pictures: Mapping[tuple[str, str], str]) -> str:
    parts = [MARK, f"# {method}", *_about(method), "## Results", _summary(results, method), CAPTION]
    for row, column, _ in results.cells(method):
        title = column.label if row == method else f"{row}: {column.label}"
        parts.append(f"### {escape.markdown(title)}")
        if picture := pictures.get((row, column.label)):
            parts += [picture, CURVES]
        parts.append(_runs(results, row, column))
    parts.append("[All methods](../methods.md), [all tables and pages](../README.md)")
    return "\n\n".join(parts) + "\n"


def _about(method: str) -> list[str]:
    """Papers, formulas and YAML."""
    config, yaml = catalogue.configured(method), catalogue.yaml_of(method)
    formulas = catalogue.formulas(config) or [catalogue.escaped(catalogue.comment(yaml))]
    return [
        *(f"{paper}." for paper in catalogue.papers(config)),
        "\n".join(f"- {formula}" for formula in formulas),
        f"[`conf/method/{method}.yaml`]({link(catalogue.METHODS / f'{method}.yaml')}):",
        f"```yaml\n{yaml.rstrip()}\n```",
    ]


def _summary(results: Results, method: str) -> str:
    """The method's cells, one line each."""
    cells = list(results.cells(method))
    lines = [_summary_line(results.table, method, *cell) for cell in cells]
    width = len(SUMMARY) if any(cell.delta for _, _, cell in cells) or method != BASELINE else 2
    return markdown_grid([line[:width] for line in (list(SUMMARY), *lines)])


def _summary_line(table: Table, method: str, row: str, column: Column, cell: Cell) -> list[str]:
    baseline = table.under(column).get(BASELINE)
    group = table.groups[row]
    labels = [column.label, *([row] if row != method else [])]
    if group != FIRST:
        labels.append(str(group))
    texts = [
        "; ".join(labels),
        cell_score(cell, column.digits),
        "" if baseline is None else cell_score(baseline, column.digits),
        difference(cell, column.digits),
        _interval(cell, column.digits),
        _verdict(cell, is_control=group.kind is Kind.CONTROL, is_unlike=row in column.unlike),
    ]
    return [escape.markdown(text) for text in texts]


def _interval(cell: Cell, digits: int) -> str:
    """`+0.3 to +2.7`, or an empty string if it is unknown."""
    if cell.delta is None or cell.delta.half_width is None:
        return ""
    mean, half = cell.delta.mean, cell.delta.half_width
    return f"{signed(mean - half, digits)} to {signed(mean + half, digits)}"


def _verdict(cell: Cell, *, is_control: bool, is_unlike: bool) -> str:
    if cell.delta is None:
        return ""
    if is_unlike:
        return "not tested: varies more over the seeds than all other rows"
    if cell.delta.half_width is None:
        return "not tested: no row has two seeds"
    text = VERDICTS[cell.effect]
    if is_control:
        return f"{text} (a control)"
    return f"{text}; not above the best control" if cell.unproven else text


def _runs(results: Results, row: str, column: Column) -> str:
    """The runs of a cell, one line each."""
    lines = [
        _run_line(results, run.record, run.folder, column.digits)
        for run in results.runs[row, column.label]
    ]
    return markdown_grid([list(RUNS), *lines])


def _run_line(results: Results, record: Record, folder: Path, digits: int) -> list[str]:
    accuracy, recipe = record.accuracy, record.config.recipe
    return [
        str(record.seed),
        f"{accuracy.last:.{digits}f}",
        f"{accuracy.best:.{digits}f} ({accuracy.best_epoch})",
        _teacher(results, record, digits),
        escape.markdown(f"{recipe.name} ({pluralize(recipe.epochs, 'epoch')})"),
        f"{record.seconds:,.0f}",
        f"[{record.digest}]({link(folder / RESULT)})",
    ]


def _teacher(results: Results, record: Record, digits: int) -> str:
    """The teacher's accuracy, with a link to its record; members of an ensemble are numbered."""
    teacher = record.teacher
    if teacher is None:
        return ""
    text = f"{teacher.accuracy:.{digits}f}"
    places = [link(results.folders[f] / RESULT) for f in teacher.folders if f in results.folders]
    if len(places) == 1:
        return f"[{text}]({places[0]})"
    numbered = ", ".join(f"[{number}]({place})" for number, place in enumerate(places, start=1))
    return f"{text} (of {numbered})" if numbered else text
