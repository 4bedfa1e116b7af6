"""A figure of accuracy against a training cost, with the Pareto frontier of methods."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import Kind
from kd_bench.results.figures.svg import CLEAR, VAGUE, picture
from kd_bench.results.options import METRIC, Metric
from kd_bench.results.table import Column, Table
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.0, 3.8  # inches of a panel
ALL_NAMED = 16  # most points in a panel for which all are labelled
LOGARITHMIC = 8  # smallest ratio of largest to smallest cost with a logarithmic axis


@dataclass(frozen=True)
class Costs:
    """A cost of the rows of a table."""

    name: str
    text: str  # below the axis
    of: Mapping[tuple[str, str], float]  # by row label and column label
    why_none: str  # how to get it for a row that lacks it


def recorded(costs: Table) -> Costs:
    """Costs from the records of runs, as means over the seeds.

    Args:
        costs: a table of a metric that is a cost.
    """
    cost = METRIC[costs.metric]
    of = {place: cell.mean for place, cell in costs.cells.items() if cell.mean is not None}
    text = f"{cost.text[0].lower()}{cost.text[1:]}, mean of a run"
    return Costs(costs.metric, text, of, cost.why_none)


def measured(file: Path, table: Table) -> Costs:
    """The time of a training step of each method, measured by tools/method_cost.py.

    Unlike the seconds in records, these times were measured in turns on one machine.

    Raises:
        UserError: the file is not such a measurement.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        pair = found["pair"]
        steps = {name: each["step_to_st"]["median"] for name, each in found["methods"].items()}
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a measurement of tools/method_cost.py") from error
    of = {
        (row, column.label): float(steps[method])
        for column in table.columns
        if column.pair == pair
        for row, method in table.rows.items()
        if method in steps
    }
    why_none = f"it has steps of {', '.join(steps)} for the pair {pair}"
    return Costs(str(file), "time of a training step, relative to st", of, why_none)


@dataclass(frozen=True)
class Point:
    """A row in a column: its mean cost, and mean and range of the metric over the seeds."""

    row: str
    cost: float
    mean: float
    lowest: float
    highest: float
    is_control: bool


def points(table: Table, costs: Costs, column: Column) -> list[Point]:
    """The finished rows of a column that have a cost, cheapest first; of equal costs, the best."""
    better = METRIC[table.metric].better
    found = _points(table, costs, column)
    return sorted(found, key=lambda point: (point.cost, -better * point.mean))


def _points(table: Table, costs: Costs, column: Column) -> Iterator[Point]:
    for row, cell in table.under(column).items():
        cost = costs.of.get((row, column.label))
        if cell.mean is not None and cost is not None:
            is_control = table.groups[row].kind is Kind.CONTROL
            seeds = cell.values.values()
            yield Point(row, cost, cell.mean, min(seeds), max(seeds), is_control)


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


def svg(table: Table, costs: Costs) -> str:
    """One panel per column: diamonds are the means of rows, bars the ranges of their seeds.

    Args:
        table: of a metric.
        costs: of its rows; those without a cost are left out.

    Raises:
        UserError: the metric is a cost itself, or no row has a cost.
    """
    from matplotlib.figure import Figure

    metric = METRIC[table.metric]
    require(metric.better != 0, f"{table.metric} is itself a cost; choose another --metric")
    by_column = {column.label: points(table, costs, column) for column in table.columns}
    shown = {label: found for label, found in by_column.items() if found}
    require(bool(shown), f"no costs to draw: no row has {costs.name}; {costs.why_none}")
    figure = Figure(figsize=(WIDTH, HEIGHT * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False)[:, 0]
    for panel, (label, found) in zip(panels, shown.items(), strict=True):
        _draw(panel, found, metric)
        panel.set_title(printable(label), fontsize=10, loc="left", parse_math=False)
    has_controls = any(point.is_control for found in shown.values() for point in found)
    panels[-1].set_xlabel(f"{costs.text}{' (crosses: controls)' * has_controls}")
    numbers = [[label, [list(vars(each).values()) for each in of]] for label, of in shown.items()]
    return picture(figure, "cost", [costs.name, numbers])


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
        is_named = point in best or point.row == BASELINE or point is found[-1]
        if is_named or len(found) <= ALL_NAMED:
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
