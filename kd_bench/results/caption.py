"""The protocol behind a table's numbers, in sentences, and what to be warned of."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

import pandas as pd

from kd_bench.results.select import BASELINE
from kd_bench.results.table import Cell, Column, Table
from kd_bench.utils.formatting import format_duration

EPOCH = {
    "last": "at the last epoch",
    "best": "at the best test epoch (test-selected: too high by what the choice gains)",
    "best-val": "at the epoch that is best on the validation images",
}


METRIC_NAME = {"last": "last", "best": "best (test-selected)", "best-val": "best-val"}


MANY = 3  # of a list in the caption; the rest is counted


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
            held_out = column.images.validation
            chosen = f", {held_out:,} for validation" if held_out else ""
            told.append(
                f"{column.dataset} ({column.images.test:,} test images,"
                f" {column.images.train:,} for training{chosen})"
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
    return f"Training took these runs {format_duration(runs['seconds'].sum())}, at {pace} images/s each."


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


def caption_sentences(table: Table, mark: str = "Bold") -> list[str]:
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


def caveats(table: Table) -> list[str]:
    """What a reader must know before believing the numbers, in sentences."""
    done = table.runs[~table.runs["failed"]]
    changed = done[done["dirty"].astype(bool)]
    dirty = dict.fromkeys(f"{row} in {column}" for row, column in changed[["row", "column"]].values)
    several = [f"{c.label} ({len(c.teachers)})" for c in table.columns if len(c.teachers) > 1]
    failed = [f"{each.folder} ({each.reason})" for each in table.unplaced]
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
