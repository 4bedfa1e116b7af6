"""Records to cells: which runs stand together, what they average to, and what their seeds can tell.

The steps: `tidy` makes one line of each record; `select_runs` puts the lines into columns, one for each
dataset, pair of models, recipe and whatever else of a job is not its method; `table_from` averages
the seeds of each row and column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

import pandas as pd

from kd_bench.results.labels import (
    conflict,
    natural_key,
)
from kd_bench.results.record import Failure, Images, Record
from kd_bench.results.select import BASELINE, _failed_line, select_runs, to_frame
from kd_bench.results.statistics import Pooled, half_width, pooled
from kd_bench.utils.errors import UserError, require

COLUMN_ORDER = ("dataset", "pair", "label")


@dataclass(frozen=True)
class Delta:
    """A method's accuracy minus the baseline's in points, averaged over the seeds both have."""

    mean: float
    pairs: int  # seeds that both have
    half_width: float | None  # of the 95 % interval; None where no cell of the column has two seeds


@dataclass(frozen=True)
class Cell:
    """The runs of one row in one column, which differ in their seed alone."""

    values: dict[int, float]  # seed -> accuracy in percent
    failed: int = 0  # jobs that ended with an error
    delta: Delta | None = None
    bold: bool = False  # the best of its column, or not told from it
    changed: dict = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None where all failed."""
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
    """What the runs of a column have in common: all of the job but its method and seed."""

    label: str
    dataset: str
    pair: str
    recipe: str
    speed: str
    images: Images | None  # None where no run ended well
    teachers: tuple[float, ...]  # accuracy of each teacher behind the column, none or one as a rule
    deviation: Pooled | None  # over the cells of the column

    @property
    def digits(self) -> int:
        """Decimal places: one of fewer than 2,000 images is more than 0.05 points."""
        return 1 if self.images is None or self.images.test < 2000 else 2


@dataclass(frozen=True)
class Table:
    """Rows and columns of cells, and the runs that stand behind them."""

    metric: str
    columns: list[Column]
    rows: dict[str, str]  # row label -> name of its method
    cells: dict[tuple[str, str], Cell]  # by row label and column label; a missing cell is absent
    averages: dict[str, Average]  # by row label, only rows that are complete
    runs: pd.DataFrame  # as from `standing`, with the labels of row and column
    unplaced: list[Failure]  # failures that no row and column can be told for
    note: str = ""
    command: str = ""  # that makes the table

    def under(self, column: Column) -> dict[str, Cell]:
        """The cells of a column by row, in the order of the rows."""
        there = {row: self.cells.get((row, column.label)) for row in self.rows}
        return {row: cell for row, cell in there.items() if cell}


# One line per run


# Failed jobs


# Columns


# Cells


def _refuse_unlike(runs: pd.DataFrame, row: str, column: str) -> None:
    """Refuse a cell whose runs differ in more than their seeds, or that has a seed twice."""
    jobs = dict(zip(runs["job"], runs["folder"], strict=True))
    if len(jobs) > 1:
        told = conflict({folder: json.loads(job) for job, folder in sorted(jobs.items())})
        raise UserError(
            f"{row} in {column} has runs that differ in more than the seed: {told};"
            " move away those that should not count"
        )
    for seed, same in runs.groupby("seed"):
        folders = ", ".join(sorted(same["folder"]))
        require(len(same) == 1, f"{row} in {column} has seed {seed} more than once: {folders}")


def _refuse_unlike_images(runs: pd.DataFrame, column: str) -> None:
    """Refuse a column whose runs saw different images, whatever their jobs say."""
    data = dict(zip(runs["data"], runs["folder"], strict=True))
    told = ", ".join(f"{data[each]} ({each})" for each in sorted(data))
    require(len(data) <= 1, f"the runs of {column} saw different images: {told}")


def _cell(runs: pd.DataFrame) -> Cell:
    done = runs[~runs["failed"]]
    values = dict(sorted(zip(done["seed"], done["accuracy"], strict=True)))
    failed = set(runs.loc[runs["failed"], "seed"]) - set(values)
    return Cell(values, failed=len(failed), changed=runs.iloc[0]["changed"])


def _column(label: str, runs: pd.DataFrame, cells: Iterable[Cell]) -> Column:
    done = runs[~runs["failed"]]
    teachers = done[["teacher_folder", "teacher_accuracy"]].dropna(subset="teacher_accuracy")
    first = runs.iloc[0]
    return Column(
        label=label,
        dataset=first["dataset"],
        pair=first["pair"],
        recipe=first["recipe"],
        speed=first["speed"],
        images=done.iloc[0]["images"] if len(done) else None,
        teachers=tuple(sorted(teachers.drop_duplicates()["teacher_accuracy"])),
        deviation=pooled(cell.values.values() for cell in cells),
    )


def _delta(cell: Cell, baseline: Cell, deviation: Pooled | None) -> Delta | None:
    """The mean over the seeds that both have; None where they share no seed."""
    seeds = cell.values.keys() & baseline.values.keys()
    if not seeds:
        return None
    mean = fmean(cell.values[seed] - baseline.values[seed] for seed in seeds)
    width = half_width(deviation, len(seeds), len(seeds)) if deviation else None
    return Delta(mean, len(seeds), width)


def _best(cells: Mapping[str, Cell], deviation: Pooled | None) -> set[str]:
    """The rows that are best, or not told from the best; none where that would be all of them."""
    scored = {row: cell for row, cell in cells.items() if cell.n}
    if deviation is None or not scored:
        return set()
    top = max(scored.values(), key=lambda cell: cell.mean)
    best = {
        row
        for row, cell in scored.items()
        if top.mean - cell.mean <= half_width(deviation, top.n, cell.n)
    }
    return set() if len(best) == len(scored) else best


def _compared(cells: dict[str, Cell], deviation: Pooled | None) -> dict[str, Cell]:
    """The cells of a column with their deltas and with the best of them marked."""
    best, baseline = _best(cells, deviation), cells.get(BASELINE)
    return {
        row: replace(
            cell,
            bold=row in best,
            delta=_delta(cell, baseline, deviation) if baseline and row != BASELINE else None,
        )
        for row, cell in cells.items()
    }


def _average(cells: Sequence[Cell | None]) -> Average | None:
    """Mean of means over the columns; None for a row that is not complete."""
    if len(cells) < 2 or not all(cell and cell.n for cell in cells):
        return None
    deltas = [cell.delta.mean for cell in cells if cell.delta]
    mean = fmean(cell.mean for cell in cells)
    return Average(mean, fmean(deltas) if len(deltas) == len(cells) else None)


# The table


def _rank(name: str, order: Sequence[str]) -> tuple:
    """Sorts the names in `order` first and as given there, then the others as a reader would."""
    return (order.index(name) if name in order else len(order), natural_key(name))


def _rows(runs: pd.DataFrame, order: Sequence[str]) -> dict[str, str]:
    """Row labels with their methods: the baseline first, a method before its changed versions."""
    methods = dict(zip(runs["row"], runs["method"], strict=True))
    ranks = {r: (_rank(m, [BASELINE, *order]), natural_key(r)) for r, m in methods.items()}
    return {row: methods[row] for row in sorted(methods, key=ranks.__getitem__)}


def table_from(
    records: Sequence[Record],
    failures: Sequence[Failure] = (),
    *,
    metric: str = "last",
    order: Sequence[str] = (),
    choice: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    command: str = "",
) -> Table:
    """The results table of some records.

    Args:
        records: as from `reading.read_records`, in any order.
        failures: as from `reading.read_failures`: "folder", "reason", and the job's "identity",
            "config" and "changed" where they are known, which tell its row and column.
        metric: "last", "best" (over test epochs) or "best-val".
        order: names of methods, the order of the rows; others follow by name.
        choice: what to show, see `select_runs`; a given order of names is the order shown.
        note: a sentence for the caption.
        command: the command line that makes the table, shown beneath it.

    Raises:
        UserError: no records, an unknown metric or choice, or runs in one cell that differ in more
            than the seed.
    """
    require(len(records) > 0, "no records to make a table of")
    choice = choice or {}
    lines = to_frame(records, metric).to_dict("records")
    failed = {failure.folder: _failed_line(failure, lines) for failure in failures}
    runs = pd.DataFrame(lines + [line for line in failed.values() if line])
    runs = select_runs(runs.sort_values("folder"), choice)
    rows = _rows(runs, order or choice.get("method") or ())
    columns, cells = _filled(runs)
    columns.sort(key=lambda c: [_rank(getattr(c, k), choice.get(k) or ()) for k in COLUMN_ORDER])
    averages = {row: _average([cells.get((row, c.label)) for c in columns]) for row in rows}
    return Table(
        metric=metric,
        columns=columns,
        rows=rows,
        cells=cells,
        averages={row: average for row, average in averages.items() if average},
        runs=runs,
        unplaced=[f for f in failures if not failed[f.folder] and _chosen(f, choice)],
        note=note,
        command=command,
    )


def _filled(runs: pd.DataFrame) -> tuple[list[Column], dict[tuple[str, str], Cell]]:
    """The columns and, by row and column, the cells."""
    columns, cells = [], {}
    for label, in_column in runs.groupby("column"):
        _refuse_unlike_images(in_column[~in_column["failed"]], label)
        found = {}
        for row, in_cell in in_column.groupby("row"):
            _refuse_unlike(in_cell[~in_cell["failed"]], row, label)
            found[row] = _cell(in_cell)
        columns.append(_column(label, in_column, found.values()))
        compared = _compared(found, columns[-1].deviation)
        cells |= {(row, label): cell for row, cell in compared.items()}
    return columns, cells


def _chosen(failure: Failure, choice: Mapping[str, Sequence[str]]) -> bool:
    told = dict(zip(("dataset", "pair", "method"), failure.folder.split("/"), strict=False))
    return all(told[kind] in (choice.get(kind) or [told[kind]]) for kind in told)
