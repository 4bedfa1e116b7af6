"""A figure of performance profiles: the share of pairs on which a method is close to the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kd_bench.results.analysis.summary import gaps
from kd_bench.results.figures.svg import picture
from kd_bench.results.options import METRIC
from kd_bench.results.rendering.pairs import by_group, shared_scores
from kd_bench.results.table import Table
from kd_bench.utils.errors import require
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.0, 3.6
LINE_STYLES = ("-", "--", ":", "-.")  # the next one when all colours are used
COLOURS = 10
IN_LEGEND = 17  # methods in a column of the legend

Profiles = dict[str, list[float]]  # by row label, gaps to the best of each pair, ascending


def profiles(table: Table) -> dict[str, Profiles]:
    """The profiles of each group with at least two rows, by its name; smallest mean gap first.

    Raises:
        UserError: see `pairs.shared_scores`.
    """
    scores = shared_scores(table)
    found = {}
    for group, rows in by_group(table, scores).items():
        below = gaps(np.array([scores[row] for row in rows])).tolist()
        by_row = dict(zip(rows, below, strict=True))
        if len(rows) > 1:
            found[str(group)] = dict(sorted(by_row.items(), key=lambda item: sum(item[1])))
    return found


def svg(table: Table) -> str:
    """One panel per group of methods: the share of pairs within x of the group's best.

    Raises:
        UserError: see `pairs.shared_scores`, or no group has two rows.
    """
    from matplotlib.figure import Figure

    found = profiles(table)
    require(bool(found), "no profiles to draw: no two methods on all pairs are in the same group")
    figure = Figure(figsize=(WIDTH, HEIGHT * len(found)), layout="constrained")
    panels = figure.subplots(len(found), squeeze=False)[:, 0]
    for panel, (name, of_rows) in zip(panels, found.items(), strict=True):
        _draw(panel, of_rows)
        panel.set_title(printable(name), fontsize=10, loc="left", parse_math=False)
        panel.set_ylabel(f"share of {len(table.columns)} pairs")
    unit = METRIC[table.metric].unit
    panels[-1].set_xlabel(f"gap to the best of the pair in {unit}")
    return picture(figure, "profile", [[name, list(rows.items())] for name, rows in found.items()])


def _draw(panel: Axes, of_rows: Profiles) -> None:
    end = 1.05 * max(below[-1] for below in of_rows.values()) or 1.0
    for place, (row, below) in enumerate(of_rows.items()):
        shares = np.arange(len(below) + 1) / len(below)
        panel.step(
            [0.0, *below, end],
            [*shares, 1.0],
            where="post",
            color=f"C{place % COLOURS}",
            linestyle=LINE_STYLES[place // COLOURS % len(LINE_STYLES)],
            label=printable(row),
        )
    panel.set_xlim(0, end)
    panel.set_ylim(0, 1.02)
    legend = panel.legend(
        loc="upper left",
        bbox_to_anchor=(1, 1),
        ncols=-(-len(of_rows) // IN_LEGEND),
        fontsize=8,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    panel.grid(linewidth=0.3)
    panel.spines[["top", "right"]].set_visible(False)
