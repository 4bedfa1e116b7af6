"""A figure of each method's difference from the baseline, with its seeds and interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_bench.config.schema import BASELINE
from kd_bench.results.figures.svg import CLEAR, VAGUE, picture
from kd_bench.results.options import METRIC
from kd_bench.results.table import Column, Delta, Table
from kd_bench.utils.errors import require
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

SIGNIFICANT, OTHER = CLEAR, VAGUE  # colours, by the same tests as the arrows of the table
INCHES_PER_ROW, INCHES_AROUND, WIDTH = 0.27, 1.0, 7.0


@dataclass(frozen=True)
class Difference:
    """A row of the figure: a method's difference from the baseline."""

    row: str
    delta: Delta
    is_significant: bool  # corrected for all rows of the column
    seeds: list[float]  # the difference for each shared seed


def differences_from_baseline(table: Table, column: Column) -> list[Difference]:
    """The differences in a column, in the order of the table."""
    cells = table.under(column)
    baseline = cells[BASELINE].values if BASELINE in cells else {}
    result = []
    for row, cell in cells.items():
        if cell.delta is not None:
            seeds = sorted(cell.values.keys() & baseline.keys())
            values = [cell.values[seed] - baseline[seed] for seed in seeds]
            result.append(Difference(row, cell.delta, bool(cell.effect), values))
    return result


def svg(table: Table) -> str:
    """One panel per column: dots are seeds, diamonds their means, bars 95 % intervals.

    Raises:
        UserError: the table has no difference from a baseline.
    """
    from matplotlib.figure import Figure

    by_column = {c.label: differences_from_baseline(table, c) for c in table.columns}
    shown = {label: rows for label, rows in by_column.items() if rows}
    require(bool(shown), "no differences to draw: no method shares a seed with a baseline")
    heights = [len(rows) * INCHES_PER_ROW + INCHES_AROUND for rows in shown.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for panel, (label, rows) in zip(panels, shown.items(), strict=True):
        _draw(panel, rows)
        panel.set_title(printable(label), fontsize=10, loc="left", parse_math=False)
    unit = METRIC[table.metric].unit
    panels[-1].set_xlabel(
        f"difference from the baseline in {unit}: seeds, mean, 95 % interval\n(blue: significant)"
    )
    return picture(figure, "differences", _numbers(shown))


def _draw(panel: Axes, rows: list[Difference]) -> None:
    panel.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        mean, width = row.delta.mean, row.delta.half_width
        colour = SIGNIFICANT if row.is_significant else OTHER
        panel.plot(row.seeds, [place] * len(row.seeds), "o", color=colour, markersize=3, alpha=0.5)
        panel.errorbar(mean, place, xerr=width, fmt="D", color=colour, markersize=5, capsize=3)
    labels = [printable(row.row) for row in rows]
    panel.set_yticks(range(len(rows)), labels, parse_math=False)
    panel.invert_yaxis()
    panel.margins(y=0.5 / len(rows))
    panel.grid(axis="x", linewidth=0.3)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _numbers(shown: dict[str, list[Difference]]) -> list[object]:
    """The numbers in the figure, in order."""
    return [
        [
            label,
            [
                [row.row, row.delta.mean, row.delta.half_width, row.is_significant, *row.seeds]
                for row in rows
            ],
        ]
        for label, rows in shown.items()
    ]
