"""A figure of accuracy against a training cost, with the Pareto frontier of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import Kind
from kd_bench.results.figures.svg import CLEAR, VAGUE, picture
from kd_bench.results.options import METRIC, Metric
from kd_bench.results.table import Column, Table
from kd_bench.utils.errors import require
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.0, 3.8  # inches of a panel
ALL_NAMED = 16  # most points in a panel for which all are labelled
LOGARITHMIC = 8  # smallest ratio of largest to smallest cost with a logarithmic axis


@dataclass(frozen=True)
class Point:
    """A row in a column: its mean cost, and mean and range of the metric over the seeds."""

    row: str
    cost: float
    mean: float
    lowest: float
    highest: float
    is_control: bool


def points(table: Table, costs: Table, column: Column) -> list[Point]:
    """The finished rows of a column that have a cost, cheapest first."""
    return sorted(_points(table, costs, column), key=lambda point: (point.cost, -point.mean))


def _points(table: Table, costs: Table, column: Column) -> Iterator[Point]:
    for row, cell in table.under(column).items():
        of_cost = costs.cells.get((row, column.label))
        if cell.mean is not None and of_cost is not None and of_cost.mean is not None:
            is_control = table.groups[row].kind is Kind.CONTROL
            seeds = cell.values.values()
            yield Point(row, of_cost.mean, cell.mean, min(seeds), max(seeds), is_control)


def frontier(found: Sequence[Point], better: int) -> list[Point]:
    """The Pareto frontier, cheapest first: points better than every point of at most their cost.

    Args:
        found: as from `points`.
        better: 1 if higher is better, -1 if lower is better.
    """
    result: list[Point] = []
    for point in found:
        if not point.is_control and (not result or better * (point.mean - result[-1].mean) > 0):
            result.append(point)
    return result


def svg(table: Table, costs: Table) -> str:
    """One panel per column: diamonds are the means of rows, bars the ranges of their seeds.

    Args:
        table: of a metric.
        costs: a table of the same runs, of a cost.

    Raises:
        UserError: the metric is a cost itself, or no row has a cost.
    """
    from matplotlib.figure import Figure

    metric, cost = METRIC[table.metric], METRIC[costs.metric]
    require(metric.better != 0, f"{table.metric} is itself a cost; choose another --metric")
    by_column = {column.label: points(table, costs, column) for column in table.columns}
    shown = {label: found for label, found in by_column.items() if found}
    require(bool(shown), f"no costs to draw: no row has {costs.metric}; {cost.why_none}")
    figure = Figure(figsize=(WIDTH, HEIGHT * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False)[:, 0]
    for panel, (label, found) in zip(panels, shown.items(), strict=True):
        _draw(panel, found, metric)
        panel.set_title(printable(label), fontsize=10, loc="left", parse_math=False)
    panels[-1].set_xlabel(f"{cost.text[0].lower()}{cost.text[1:]}, mean of a run")
    numbers = [[label, [list(vars(each).values()) for each in of]] for label, of in shown.items()]
    return picture(figure, "cost", [costs.metric, numbers])


def _draw(panel: Axes, found: Sequence[Point], metric: Metric) -> None:
    best = frontier(found, metric.better)
    panel.step([p.cost for p in best], [p.mean for p in best], where="post", color=CLEAR, lw=0.8)
    for point in found:
        colour = CLEAR if point in best else VAGUE
        below, above = point.mean - point.lowest, point.highest - point.mean
        panel.errorbar(
            point.cost,
            point.mean,
            yerr=[[below], [above]],
            fmt="x" if point.is_control else "D",
            color=colour,
            markersize=4,
            elinewidth=0.8,
        )
        if point in best or point.row == BASELINE or len(found) <= ALL_NAMED:
            panel.annotate(
                printable(point.row),
                (point.cost, point.mean),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=8,
                parse_math=False,
            )
    name = "accuracy in %" if metric.is_accuracy else metric.heading
    panel.set_ylabel(f"{name}: mean, range of seeds")
    if found[0].cost > 0 and found[-1].cost / found[0].cost >= LOGARITHMIC:
        panel.set_xscale("log")
    panel.margins(x=0.1)
    panel.grid(linewidth=0.3)
    panel.spines[["top", "right"]].set_visible(False)
