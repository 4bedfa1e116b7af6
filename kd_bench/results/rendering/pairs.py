"""Summary of a table's methods over all its pairs: a second, small table below it.

It contains the rows that every pair has. As in the table, rows are ranked only within their group.
Means are compared as displayed, so that two that look equal tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import Group
from kd_bench.results.analysis.summary import Tally, average_ranks, bootstrap_interval, tally
from kd_bench.results.options import METRIC
from kd_bench.results.table import Cell, Table
from kd_bench.utils.errors import require

RIVAL = "st"  # the oldest method, which others have to beat


@dataclass(frozen=True)
class MeanDelta:
    """The mean over pairs of a row's differences from the baseline, in the metric's unit."""

    mean: float
    low: float  # of the 95 % interval
    high: float


@dataclass(frozen=True)
class Standing:
    """A row's results over all pairs."""

    rank: float  # average, among the rows of its group
    delta: MeanDelta | None  # None if it shares no seed with the baseline on some pair
    against: Tally | None  # compared with the rival; None for the rival itself, or without one


@dataclass(frozen=True)
class Summary:
    """The rows that occur on all pairs of a table."""

    pairs: int
    standings: dict[str, Standing]  # by row label, in the order of the table
    left_out: list[str]  # rows that are missing on some pair
    digits: int  # decimal places of differences


def summarize(table: Table) -> Summary:
    """Summarize the rows of a table over all its pairs.

    Raises:
        UserError: see `shared_scores`.
    """
    scores = shared_scores(table)
    ranks: dict[str, float] = {}
    for rows in by_group(table, scores).values():
        ranked = average_ranks(np.array([scores[row] for row in rows]))
        ranks |= dict(zip(rows, ranked.tolist(), strict=True))
    rivals = [row for row in scores if table.rows[row] == RIVAL]
    rival = rivals[0] if len(rivals) == 1 else None  # with several versions, none is the rival
    return Summary(
        pairs=len(table.columns),
        standings={
            row: Standing(
                ranks[row],
                _mean_delta(table, row),
                tally(scores[row], scores[rival]) if rival not in (None, row) else None,
            )
            for row in scores
        },
        left_out=[row for row in table.rows if row not in scores],
        digits=min(column.digits for column in table.columns),
    )


def shared_scores(table: Table) -> dict[str, np.ndarray]:
    """The displayed means of each row that occurs on all pairs: shape (pairs,).

    If lower is better, they have the opposite sign.

    Raises:
        UserError: the metric is a cost, there is only one pair, a pair has several columns, or the
            pairs do not share two rows.
    """
    better = METRIC[table.metric].better
    require(better != 0, f"a summary ranks methods, but {table.metric} is a cost and not ranked")
    names = Counter(f"{column.dataset} {column.pair}" for column in table.columns)
    require(
        len(names) > 1,
        f"a summary needs at least two pairs, got only {', '.join(names)}",
    )
    twice = [name for name, count in names.items() if count > 1]
    require(
        not twice,
        f"a summary uses each pair once, but {', '.join(twice)} has several columns; choose one"
        " with --recipe, or only other pairs with --pair",
    )
    scores = {}
    for row in table.rows:
        means = [_mean(table, row, column.label, column.digits) for column in table.columns]
        if None not in means:
            scores[row] = better * np.array(means, dtype=float)
    require(
        len(scores) > 1,
        "no two methods have runs on all pairs; choose pairs that share some with --pair",
    )
    return scores


def _mean(table: Table, row: str, label: str, digits: int) -> float | None:
    cell = table.cells.get((row, label))
    return None if cell is None or cell.mean is None else round(cell.mean, digits)


def by_group(table: Table, rows: Mapping[str, object]) -> dict[Group, list[str]]:
    """The rows of each group, in the order of the table."""
    groups: dict[Group, list[str]] = {}
    for row in rows:
        groups.setdefault(table.groups[row], []).append(row)
    return groups


def _mean_delta(table: Table, row: str) -> MeanDelta | None:
    differences = [
        _differences(table.cells[row, column.label], table.cells.get((BASELINE, column.label)))
        for column in table.columns
    ]
    if row == BASELINE or not all(differences):
        return None
    low, high = bootstrap_interval(differences)
    return MeanDelta(fmean(map(fmean, differences)), low, high)


def _differences(cell: Cell, baseline: Cell | None) -> list[float]:
    """Differences from the baseline, for the seeds that both have."""
    other = {} if baseline is None else baseline.values
    return [value - other[seed] for seed, value in cell.values.items() if seed in other]
