"""A plot of a metric against each swept value of a method, with individual seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kd_bench.config.schema import BASELINE
from kd_bench.results.figures.svg import picture
from kd_bench.results.labels import format_value, natural_key
from kd_bench.results.options import METRIC, Metric
from kd_bench.results.table import Cell, Table
from kd_bench.utils.errors import require
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.0, 3.2  # inches of a panel
LOGARITHMIC = 8  # smallest ratio of largest to smallest value with a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """Cells of one method in one column that differ in a single value."""

    label: str  # the other values in the labels of their rows: "ce=0.5"
    points: dict[float, dict[int, float]]  # by that value: seed -> accuracy in percent


@dataclass(frozen=True)
class Panel:
    """A method's curves over one of its values, in one column."""

    title: str
    value: str  # its path, such as method.losses.st.temperature
    curves: list[Curve]
    baseline: float | None  # mean accuracy in percent


def panels(table: Table) -> list[Panel]:
    """A panel for each column, method and number that differs between the method's rows."""
    found = []
    for column in table.columns:
        cells = {row: cell for row, cell in table.under(column).items() if cell.n}
        baseline = cells[BASELINE].mean if BASELINE in cells else None
        for method in dict.fromkeys(table.rows.values()):
            rows = {row: cell for row, cell in cells.items() if table.rows[row] == method}
            for path in _swept({row: table.named[row] for row in rows}):
                if curves := list(_curves(table, rows, path)):
                    title = f"{column.label}: {method}"
                    found.append(Panel(title, path, curves, baseline))
    return found


def _swept(named: dict[str, dict[str, Any]]) -> list[str]:
    """The paths of numbers that differ between rows, given the values in each row's label."""
    values = defaultdict(set)
    for row in named.values():
        for path, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[path].add(float(value))
    return sorted(path for path, numbers in values.items() if len(numbers) > 1)


def _curves(table: Table, cells: dict[str, Cell], path: str) -> Iterator[Curve]:
    """The cells as curves over the value at a path; curves have at least two points."""
    by_others: dict[str, dict[float, dict[int, float]]] = defaultdict(dict)
    for row, cell in cells.items():
        named = table.named[row]
        if path in named:
            others = [key for key in sorted(named) if key != path]
            label = ", ".join(f"{_short(key)}={format_value(named[key])}" for key in others)
            by_others[label][float(named[path])] = cell.values
    for label in sorted(by_others, key=natural_key):
        if len(by_others[label]) > 1:
            yield Curve(label, dict(sorted(by_others[label].items())))


def _short(path: str) -> str:
    """A path without the method's part of it: "losses.st.temperature"."""
    return path.partition(".")[2]


def svg(table: Table) -> str:
    """The panels, one below another: dots are seeds, lines join their means.

    Raises:
        UserError: no method has rows that differ in a number.
    """
    from matplotlib.figure import Figure

    found = panels(table)
    require(
        bool(found),
        "no swept value to plot: no method has rows that differ in a number; sweep one, such as"
        " -m method=baseline,st method.losses.st.temperature=1,2,4",
    )
    figure = Figure(figsize=(WIDTH, HEIGHT * len(found)), layout="constrained")
    axes = figure.subplots(len(found), squeeze=False)[:, 0]
    for axis, panel in zip(axes, found, strict=True):
        _draw(axis, panel, METRIC[table.metric])
    return picture(figure, "values", [_numbers(panel) for panel in found])


def _draw(axis: Axes, panel: Panel, metric: Metric) -> None:
    for curve in panel.curves:
        means = [fmean(seeds.values()) for seeds in curve.points.values()]
        (line,) = axis.plot(
            list(curve.points), means, "D-", markersize=5, label=printable(curve.label)
        )
        dots = [(value, y) for value, seeds in curve.points.items() for y in seeds.values()]
        axis.plot(*zip(*dots, strict=True), "o", color=line.get_color(), markersize=3, alpha=0.5)
    if panel.baseline is not None:
        axis.axhline(panel.baseline, color="black", linewidth=0.8, linestyle="--", label=BASELINE)
    _scale(axis, sorted({value for curve in panel.curves for value in curve.points}))
    axis.set_xlabel(printable(_short(panel.value)), parse_math=False)
    name = "accuracy in %" if metric.is_accuracy else metric.heading
    axis.set_ylabel(f"{name}: seeds and mean")
    axis.set_title(printable(panel.title), fontsize=10, loc="left", parse_math=False)
    axis.grid(axis="y", linewidth=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if any(axis.get_legend_handles_labels()[1]):
        for text in axis.legend(fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)


def _scale(axis: Axes, values: Sequence[float]) -> None:
    """Put ticks at the values, on a logarithmic scale if their range is large."""
    if values[0] > 0 and values[-1] / values[0] >= LOGARITHMIC:
        axis.set_xscale("log")
    axis.set_xticks(values, [format_value(value) for value in values])
    axis.minorticks_off()


def _numbers(panel: Panel) -> list[object]:
    """The numbers in a panel, in order."""
    points = [
        [curve.label, [[value, *seeds.values()] for value, seeds in curve.points.items()]]
        for curve in panel.curves
    ]
    return [panel.title, panel.value, panel.baseline, points]
