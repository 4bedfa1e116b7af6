"""The results table: cells of runs that differ only in their seeds, compared within columns.

Rows are grouped by what their methods learn from and by their training budget, and the best are
marked within each group.

`select.to_frame` makes a line from each record, `select.select_runs` assigns the lines to columns,
and `table_from` averages over the seeds of each row and column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from kd_bench.config.identity import EXECUTION_KEYS
from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.comparison import Mean, compare
from kd_bench.results.analysis.crossed import Crossed, crossed_columns
from kd_bench.results.analysis.groups import Group
from kd_bench.results.analysis.statistics import Pooled, half_width, pooled, unlike
from kd_bench.results.labels import conflict, natural_key
from kd_bench.results.options import METRIC, METRICS, Metric
from kd_bench.results.published.values import Published
from kd_bench.results.record import Failure, Images, Record
from kd_bench.results.select import Line, failed_line, select_runs, to_frame, with_metric
from kd_bench.utils.errors import UserError, require

COLUMN_ORDER = ("dataset", "pair", "label")


@dataclass(frozen=True)
class Delta:
    """A method's accuracy minus the baseline's in points, averaged over their shared seeds."""

    mean: float
    pairs: int  # number of shared seeds
    half_width: float | None  # of the 95 % interval; None if no cell of the column has two seeds


@dataclass(frozen=True)
class Cell:
    """The runs of one row in one column, which differ only in their seeds."""

    values: dict[int, float]  # seed -> accuracy in percent
    failed: int = 0  # jobs that ended with an error
    delta: Delta | None = None
    # The best of its column and group, or not significantly different from it; never with failed
    # seeds, since its mean would be over those that did not fail.
    bold: bool = False
    effect: int = 0  # 1: significantly above the baseline, -1: below
    unproven: bool = False  # not significantly above the best control
    changed: dict[str, Any] = field(default_factory=dict)  # configuration values, by path

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None if all failed."""
        return fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1); None for a single run."""
        return stdev(self.values.values()) if self.n > 1 else None


@dataclass(frozen=True)
class Average:
    """A row's mean over the columns, and the mean of its deltas."""

    mean: float
    delta: float | None


@dataclass(frozen=True)
class Column:
    """What the runs of a column have in common: everything except method and seed."""

    label: str
    dataset: str
    pair: str
    recipe: str
    speed: str
    conditions: str  # recipes, execution and their changed values, as one comparable string
    images: Images | None  # None if all runs failed
    teachers: tuple[float, ...]  # accuracy of each teacher; usually one, or none
    digits: int  # decimal places
    deviation: Pooled | None  # over the cells of the column; None also if cells are not compared
    unlike: frozenset[str] = frozenset()  # rows that vary more than that, so they are not tested


@dataclass(frozen=True)
class Table:
    """Rows and columns of cells, and their runs."""

    metric: str
    columns: list[Column]
    rows: dict[str, str]  # row label -> name of its method, with its plug-ins
    groups: dict[str, Group]  # by row label; rows of one group are next to each other
    cells: dict[tuple[str, str], Cell]  # by row label and column label; a missing cell is absent
    named: dict[str, dict[str, Any]]  # by row label, the values in it, by path
    averages: dict[str, Average]  # by row label, only for complete rows of comparable columns
    runs: pd.DataFrame  # as from `select_runs`
    crossed: list[Crossed]  # variances of columns whose seeds of student and teacher are crossed
    unplaced: list[Failure]  # failures whose row and column are unknown
    lacking: list[str]  # folders of runs that are left out, since they do not have the metric
    note: str = ""  # a sentence for the caption
    command: str = ""  # the command line that generates the table
    published: list[Published] = field(default_factory=list)  # of its pairs, shown next to columns
    pages: dict[str, str] = field(default_factory=dict)  # by row label, a link for Markdown

    def under(self, column: Column) -> dict[str, Cell]:
        """The cells of a column by row, in the order of the rows."""
        keys = [(row, column.label) for row in self.rows]
        return {key[0]: self.cells[key] for key in keys if key in self.cells}


def _check_cell(runs: Sequence[Line], row: str, column: str) -> None:
    """Refuse a cell whose runs differ in more than their seeds, or that has a seed twice."""
    folders = {run["identity_key"]: run["folder"] for run in runs}
    if len(folders) > 1:
        identities = {folder: json.loads(key) for key, folder in sorted(folders.items())}
        raise UserError(
            f"{row} in {column} has runs that differ in more than the seed:"
            f" {conflict(identities)}; move the runs that should not count to another folder"
        )
    for seed, same in _grouped(runs, "seed").items():
        names = ", ".join(sorted(run["folder"] for run in same))
        require(len(same) == 1, f"{row} in {column} has seed {seed} more than once: {names}")


def _grouped(runs: Iterable[Line], key: str) -> dict[Any, list[Line]]:
    """Group runs by one of their values; pandas takes milliseconds per group of a wide frame."""
    groups: dict[Any, list[Line]] = {}
    for run in runs:
        groups.setdefault(run[key], []).append(run)
    return groups


def _check_images(runs: pd.DataFrame, column: str) -> None:
    """Refuse a column whose runs used different images, even if their configurations agree."""
    folders = dict(zip(runs["data_fingerprint"], runs["folder"], strict=True))
    different = ", ".join(f"{folders[data]} ({data})" for data in sorted(folders))
    require(len(folders) <= 1, f"the runs of {column} used different images: {different}")


def _cell(runs: Sequence[Line], row: str, column: str) -> Cell:
    done = [run for run in runs if not run["failed"]]
    _check_cell(done, row, column)
    values = dict(sorted((run["seed"], run["accuracy"]) for run in done))
    failed = {run["seed"] for run in runs if run["failed"]} - values.keys()
    return Cell(values, failed=len(failed), changed=runs[0]["changed"])


def _turned(cell: Cell, metric: Metric) -> Cell:
    """A cell with the opposite sign of its values, if lower is better."""
    if metric.better >= 0:
        return cell
    values = {seed: -value for seed, value in cell.values.items()}
    delta = cell.delta and replace(cell.delta, mean=-cell.delta.mean)
    return replace(cell, values=values, delta=delta, effect=-cell.effect)


def _column(label: str, runs: pd.DataFrame, cells: Mapping[str, Cell], metric: Metric) -> Column:
    samples = {row: list(cell.values.values()) for row, cell in cells.items()}
    apart = frozenset(unlike(samples, keep=BASELINE)) if metric.better else frozenset()
    alike = [values for row, values in samples.items() if row not in apart]
    done = runs[~runs["failed"]]
    teachers = done[["teacher_folder", "teacher_accuracy"]].dropna(subset="teacher_accuracy")
    first = runs.iloc[0]
    images = done.iloc[0]["images"] if len(done) else None
    return Column(
        label=label,
        dataset=first["dataset"],
        pair=first["pair"],
        recipe=first["recipe"],
        speed=first["speed"],
        conditions=_conditions(runs),
        images=images,
        digits=_digits(images) if metric.digits is None else metric.digits,
        teachers=tuple(sorted(teachers.drop_duplicates()["teacher_accuracy"])),
        deviation=pooled(alike) if metric.better else None,
        unlike=apart,
    )


def _digits(images: Images | None) -> int:
    """Decimal places: one image out of fewer than 2,000 is more than 0.05 points."""
    return 1 if images is None or images.test < 2000 else 2


def _conditions(runs: pd.DataFrame) -> str:
    """What the columns of an average must share: recipes, execution, and all changed values."""
    first = runs.iloc[0]
    setting, teacher = json.loads(first["setting_key"]), json.loads(first["teacher_key"] or "{}")
    changes = sorted(set().union(*runs["setting_changes"]))
    execution = {name: setting[name] for name in EXECUTION_KEYS}
    return json.dumps([setting["recipe"], teacher.get("recipe"), execution, changes])


def _are_alike(columns: Sequence[Column]) -> bool:
    """Whether columns differ only in dataset and models, so that averaging them makes sense."""
    compared = {(column.dataset, column.pair) for column in columns}
    return len({c.conditions for c in columns}) == 1 and len(compared) == len(columns)


def _delta(cell: Cell, baseline: Cell, deviation: Pooled | None) -> Delta | None:
    """The difference averaged over shared seeds; None if there are none."""
    seeds = cell.values.keys() & baseline.values.keys()
    if not seeds:
        return None
    mean = fmean(cell.values[seed] - baseline.values[seed] for seed in seeds)
    width = half_width(deviation, len(seeds), len(seeds)) if deviation else None
    return Delta(mean, len(seeds), width)


def _compared(
    cells: dict[str, Cell], groups: Mapping[str, Group], column: Column
) -> dict[str, Cell]:
    """The cells of a column with their deltas and the results of the tests."""
    baseline = cells.get(BASELINE)
    deltas = {
        row: _delta(cell, baseline, None if row in column.unlike else column.deviation)
        for row, cell in cells.items()
        if baseline and row != BASELINE
    }
    tested = {row: cell for row, cell in cells.items() if row not in column.unlike}
    verdicts = compare(
        {row: Mean(cell.mean, cell.n) for row, cell in tested.items() if cell.mean is not None},
        {row: Mean(d.mean, d.pairs) for row, d in deltas.items() if d and row in tested},
        {row: groups[row] for row in tested},
        column.deviation,
    )
    return {
        row: replace(
            cell,
            delta=deltas.get(row),
            bold=row in verdicts.best and not cell.failed,
            effect=verdicts.effects.get(row, 0),
            unproven=row in verdicts.unproven,
        )
        for row, cell in cells.items()
    }


def _averages(
    rows: Iterable[str], columns: Sequence[Column], cells: Mapping[tuple[str, str], Cell]
) -> dict[str, Average]:
    """The average of each complete row; empty if columns are not comparable."""
    if not _are_alike(columns):
        return {}
    found = {row: _average([cells.get((row, column.label)) for column in columns]) for row in rows}
    return {row: average for row, average in found.items() if average}


def _average(cells: Sequence[Cell | None]) -> Average | None:
    """Mean of means over the columns; None for an incomplete row."""
    means = [cell.mean for cell in cells if cell is not None and cell.mean is not None]
    if len(cells) < 2 or len(means) < len(cells):
        return None
    deltas = [cell.delta.mean for cell in cells if cell is not None and cell.delta is not None]
    return Average(fmean(means), fmean(deltas) if len(deltas) == len(cells) else None)


def _rank(name: str, order: Sequence[str]) -> tuple:
    """Sort key: the names in `order` first, in that order, then the others by `natural_key`."""
    return (order.index(name) if name in order else len(order), natural_key(name))


def _groups(runs: pd.DataFrame) -> dict[str, Group]:
    """The last group of each row's runs, since a failed job's budget may be underestimated."""
    groups: dict[str, Group] = {}
    for row, group in zip(runs["row"], runs["group"], strict=True):
        groups[row] = max(groups.get(row, group), group)
    return groups


def _rows(runs: pd.DataFrame, groups: Mapping[str, Group], order: Sequence[str]) -> dict[str, str]:
    """Row labels with their methods, group by group.

    Methods with the recipe's own budget come first; in each group, the baseline is first, and a
    method precedes its changed versions.
    """
    methods = dict(zip(runs["row"], runs["method"], strict=True))
    variants = dict(zip(runs["row"], runs["variant"], strict=True))
    ranks = {
        row: (groups[row], _rank(method, [BASELINE, *order]), natural_key(row))
        for row, method in methods.items()
    }
    return {row: variants[row] for row in sorted(methods, key=ranks.__getitem__)}


def table_from(
    records: Sequence[Record],
    failures: Sequence[Failure] = (),
    *,
    metric: str = METRICS[0],
    order: Sequence[str] = (),
    choice: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    command: str = "",
) -> Table:
    """The results table of records.

    Args:
        records: as from `store.read_records`, in any order.
        failures: as from `store.read_failures`.
        metric: one of `options.METRICS`; runs without it are left out.
        order: names of methods in the order of the rows; others follow by name.
        choice: what to show, see `select_runs`; names are shown in the order given.
        note: a sentence for the caption.
        command: the command line that generates the table, shown below it.

    Raises:
        UserError: no records, an unknown metric or choice, or runs in one cell that differ in more
            than the seed.
    """
    require(len(records) > 0, "there are no records to make a table from")
    choice = choice or {}
    having, lacking = with_metric(records, metric)
    lines: list[Line] = to_frame(having, metric).to_dict("records")
    failed = {failure.folder: failed_line(failure, lines) for failure in failures}
    runs = pd.DataFrame(lines + [line for line in failed.values() if line])
    runs = select_runs(runs.sort_values("folder"), choice)
    groups = _groups(runs)
    rows = _rows(runs, groups, order or choice.get("method") or ())
    columns, cells = _fill_cells(runs, groups, METRIC[metric])
    columns.sort(key=lambda c: [_rank(getattr(c, k), choice.get(k) or ()) for k in COLUMN_ORDER])
    return Table(
        metric=metric,
        columns=columns,
        rows=rows,
        groups=groups,
        cells=cells,
        named=dict(zip(runs["row"], runs["named"], strict=True)),
        averages=_averages(rows, columns, cells),
        runs=runs,
        crossed=crossed_columns(runs),
        lacking=[record.folder for record in lacking if _may_be_chosen(record, choice)],
        unplaced=[f for f in failures if not failed[f.folder] and _may_be_chosen(f, choice)],
        note=note,
        command=command,
    )


def _fill_cells(
    runs: pd.DataFrame, groups: Mapping[str, Group], metric: Metric
) -> tuple[list[Column], dict[tuple[str, str], Cell]]:
    """The columns and, by row and column, the cells."""
    columns: list[Column] = []
    cells: dict[tuple[str, str], Cell] = {}
    for label, in_column in runs.groupby("column"):
        _check_images(in_column[~in_column["failed"]], label)
        lines: list[Line] = in_column.to_dict("records")
        by_row = {row: _cell(of, row, label) for row, of in sorted(_grouped(lines, "row").items())}
        column = _column(label, in_column, by_row, metric)
        columns.append(column)
        # Signs are changed so that higher is better, and changed back after the comparison
        turned = {row: _turned(cell, metric) for row, cell in by_row.items()}
        compared = _compared(turned, groups, column)
        cells |= {(row, label): _turned(cell, metric) for row, cell in compared.items()}
    return columns, cells


def _may_be_chosen(job: Failure | Record, choice: Mapping[str, Sequence[str]]) -> bool:
    """Whether a job could be part of the table, according to its folder."""
    names = dict(zip(("dataset", "pair", "method"), job.folder.split("/"), strict=False))
    chosen = {kind: choice.get(kind) or [name] for kind, name in names.items()}
    has_plugins = any(names["method"].startswith(f"{method}+") for method in chosen["method"])
    return all(
        name in chosen[kind] or (kind == "method" and has_plugins) for kind, name in names.items()
    )
