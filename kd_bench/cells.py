"""Records to cells: which runs stand together, what they average to, and what their seeds can tell.

The steps: `tidy` makes one line of each record; `choose` puts the lines into columns, one for each
dataset, pair of models, recipe and whatever else of a job is not its method; `table_from` averages
the seeds of each row and column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

import pandas as pd

from kd_bench.config.identity import MODE, mode
from kd_bench.intervals import Pooled, half_width, pooled
from kd_bench.labels import conflict, differences, in_brackets, method_label, natural, setting
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.formatting import count

BASELINE = "baseline"  # the row that deltas are taken against
METRICS = ("last", "best", "best-val")
FILTERS = ("dataset", "pair", "method", "recipe", "student")
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
    images: dict[str, int]  # "train", "test", "validation" -> number of images
    teachers: tuple[float, ...]  # accuracy of each teacher behind the column, none or one as a rule
    deviation: Pooled | None  # over the cells of the column

    @property
    def digits(self) -> int:
        """Decimal places: one of fewer than 2,000 images is more than 0.05 points."""
        return 1 if self.images.get("test", 0) < 2000 else 2


@dataclass(frozen=True)
class Table:
    """Rows and columns of cells, and the runs that stand behind them."""

    metric: str
    columns: list[Column]
    rows: dict[str, str]  # row label -> name of its method
    cells: dict[tuple[str, str], Cell]  # by row label and column label; a missing cell is absent
    averages: dict[str, Average]  # by row label, only rows that are complete
    runs: pd.DataFrame  # as from `standing`, with the labels of row and column
    unplaced: list[Mapping]  # failures that no row and column can be told for
    note: str = ""
    command: str = ""  # that makes the table

    def under(self, column: Column) -> dict[str, Cell]:
        """The cells of a column by row, in the order of the rows."""
        there = {row: self.cells.get((row, column.label)) for row in self.rows}
        return {row: cell for row, cell in there.items() if cell}


# One line per run


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _job(record: Mapping) -> dict:
    """What a table must know of a job, whether it ended well or not."""
    config, job = record["config"], record["identity"]
    teacher = job.get("teacher", {})
    is_finished = "seed" in teacher or "checkpoint" in teacher  # else it learns along, or is none
    return {
        "folder": record["folder"],
        "dataset": config["dataset"]["name"],
        "student": config["model"]["name"],
        "pair": record["folder"].split("/")[1],
        "recipe": config["recipe"]["name"],
        "trained": f"{config['recipe']['name']} ({count(config['recipe']['epochs'], 'epoch')})",
        "speed": mode(job),
        "method": config["method"]["name"],
        "row": method_label(record),
        "setting": setting(record),
        "changed": record["changed"],
        "seed": config["seed"],
        "job": _key(job),
        "where": _key({k: job.get(k) for k in ("dataset", "model", "recipe", *MODE)}),
        "beside": _key(teacher["model"]) if teacher else "",
        "behind": _key(teacher) if is_finished else "",
    }


def _accuracy(record: Mapping, metric: str) -> float:
    value = record["accuracy"][metric.replace("-", "_")]
    require(
        value is not None,
        f"{record['folder']} has no {metric}, for it held out no validation images;"
        " choose last, or train with dataset.validation=N",
    )
    return value


def _line(record: Mapping, metric: str) -> dict:
    job, teacher = _job(record), {"folder": None, "accuracy": None}
    if job["behind"]:
        teacher = record["teacher"]
    return job | {
        "failed": False,
        "accuracy": _accuracy(record, metric),
        "teacher_folder": teacher["folder"],
        "teacher_accuracy": teacher["accuracy"],
        "images": record["images"],
        "seconds": record["seconds"],
        "pace": record["images_per_second"],
        "data": record["data_fingerprint"],
        "device": record["device_name"] if record["device"] == "cuda" else record["device"],
        "kd_bench": record["versions"]["kd_bench"],
        "torch": record["versions"]["torch"],
        "commit": record["commit"] or "unknown",
        "dirty": record["dirty"],
    }


def tidy(records: Iterable[Mapping], metric: str = "last") -> pd.DataFrame:
    """One line per run: what it was, and its accuracy by the metric.

    Args:
        records: as from `reading.read_records`.
        metric: "last", "best" (over test epochs) or "best-val".

    Raises:
        UserError: an unknown metric, or "best-val" of a run without validation images.
    """
    require(metric in METRICS, f"no metric '{metric}'; there are {', '.join(METRICS)}")
    return pd.DataFrame([_line(record, metric) for record in records])


# Failed jobs


def _failed_line(failure: Mapping, lines: Sequence[dict]) -> dict | None:
    """A failed job's line; None where its row and column cannot be told.

    They can where the failure carries its job, or where another seed of the job ended well.
    """
    job, _, seed = failure["folder"].rpartition("/seed")
    failed = {"folder": failure["folder"], "seed": int(seed), "failed": True, "accuracy": None}
    if "identity" in failure:
        return _job(failure) | failed
    twin = next((line for line in lines if line["folder"].startswith(f"{job}/")), None)
    return None if twin is None else twin | failed


# Columns


def standing(runs: pd.DataFrame, teachers: Iterable[str] = ()) -> pd.DataFrame:
    """The runs where they stand: a baseline once for every pair of models it belongs to.

    A run with a finished teacher makes its column. A run whose teacher learns along belongs to all
    columns of its pair, a run without a teacher to all columns of its student, of equal dataset and
    recipe; where there are none they make a column, but not if all that would stand in it are
    `teachers` of others.

    Args:
        runs: as from `tidy`.
        teachers: folders of the runs that are there because somebody needed a teacher.
    """
    finished = runs["behind"] != ""
    learns = ~finished & (runs["beside"] != "")
    placed = _spread(runs[learns], runs[finished], ["where", "beside"])
    free = _spread(runs[runs["beside"] == ""], placed, ["where"])
    alone = free[free["beside"] == ""]
    wanted = alone.loc[~alone["folder"].isin(set(teachers)), "where"]
    return free[(free["beside"] != "") | free["where"].isin(wanted)]


def _spread(runs: pd.DataFrame, placed: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """What is `placed`, and the runs: each in all columns of its key, by itself where are none."""
    columns = placed[["where", "beside", "behind", "pair"]].drop_duplicates()
    shared = runs.drop(columns=[name for name in columns if name not in key]).merge(columns, on=key)
    alone = runs[~runs["folder"].isin(shared["folder"])]
    return pd.concat([placed, shared, alone], ignore_index=True)


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with their column's label as "column"."""
    labels = _column_labels(runs)
    keys = zip(runs["where"], runs["behind"], runs["pair"], strict=True)
    return runs.assign(column=[labels[key] for key in keys])


def _column_labels(runs: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """A label for each (where, behind, pair): dataset, pair, in brackets what tells it apart."""
    several = [kind for kind in ("recipe", "speed") if runs[kind].nunique() > 1]
    names, details = {}, {}
    for key, group in runs.groupby(["where", "behind", "pair"]):
        first = group.iloc[0]
        names[key] = f"{first['dataset']} {first['pair'].removeprefix('none-')}"
        details[key] = [first[kind] for kind in several] + sorted(set().union(*group["setting"]))
    labels = {key: in_brackets(names[key], details[key]) for key in names}
    for label in set(labels.values()):
        alike = [key for key in names if labels[key] == label]
        for key, differing in zip(alike, differences([_parts(key) for key in alike]), strict=True):
            details[key] += [text for text in differing if text not in details[key]]
    return {key: in_brackets(names[key], details[key]) for key in names}


def _parts(key: tuple[str, ...]) -> dict:
    where, behind, _ = key
    return json.loads(where) | {"teacher": json.loads(behind or "{}")}


def choose(runs: pd.DataFrame, choice: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The chosen runs, where they stand, with the label of their column as "column".

    Args:
        runs: as from `tidy`.
        choice: any of dataset, pair, method, recipe, student -> names. The baseline is kept
            whatever the method, for deltas are taken against it. A pair or student that is asked
            for shows runs that are otherwise left out as being mere teachers.

    Raises:
        UserError: a name that no run has, or nothing left.
    """
    choice = {kind: list(names) for kind, names in choice.items() if names}
    asked = "pair" in choice or "student" in choice
    teachers = set() if asked else set(runs["teacher_folder"])
    for kind in [kind for kind in choice if kind != "pair"]:
        kept = _known(kind, choice[kind], runs)
        runs = runs[runs[kind].isin([*kept, BASELINE] if kind == "method" else kept)]
    runs = standing(runs, teachers)
    if "pair" in choice:  # a baseline's pair is that of its column, known only now
        runs = runs[runs["pair"].isin(_known("pair", choice["pair"], runs))]
    told = ", ".join(f"{kind} {' or '.join(names)}" for kind, names in choice.items())
    require(len(runs) > 0, f"no records of {told}")
    return _labelled(runs)


def _known(kind: str, names: Sequence[str], runs: pd.DataFrame) -> Sequence[str]:
    there = sorted(set(runs[kind]), key=natural)
    for name in names:
        require(name in there, f"no records of {kind} '{name}'; there are {', '.join(there)}")
    return names


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
        images=done.iloc[0]["images"] if len(done) else {},
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
    return (order.index(name) if name in order else len(order), natural(name))


def _rows(runs: pd.DataFrame, order: Sequence[str]) -> dict[str, str]:
    """Row labels with their methods: the baseline first, a method before its changed versions."""
    methods = dict(zip(runs["row"], runs["method"], strict=True))
    ranks = {r: (_rank(m, [BASELINE, *order]), natural(r)) for r, m in methods.items()}
    return {row: methods[row] for row in sorted(methods, key=ranks.__getitem__)}


def table_from(
    records: Sequence[Mapping],
    failures: Sequence[Mapping] = (),
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
        choice: what to show, see `choose`; a given order of names is the order shown.
        note: a sentence for the caption.
        command: the command line that makes the table, shown beneath it.

    Raises:
        UserError: no records, an unknown metric or choice, or runs in one cell that differ in more
            than the seed.
    """
    require(len(records) > 0, "no records to make a table of")
    choice = choice or {}
    lines = tidy(records, metric).to_dict("records")
    failed = {failure["folder"]: _failed_line(failure, lines) for failure in failures}
    runs = pd.DataFrame(lines + [line for line in failed.values() if line])
    runs = choose(runs.sort_values("folder"), choice)
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
        unplaced=[f for f in failures if not failed[f["folder"]] and _chosen(f, choice)],
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


def _chosen(failure: Mapping, choice: Mapping[str, Sequence[str]]) -> bool:
    told = dict(zip(("dataset", "pair", "method"), failure["folder"].split("/"), strict=False))
    return all(told[kind] in (choice.get(kind) or [told[kind]]) for kind in told)
