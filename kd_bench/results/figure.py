"""Cells to a picture: each method's difference to the baseline, its seeds and its interval."""

from __future__ import annotations

import hashlib
import io
import json
import re

from kd_bench.results.select import BASELINE
from kd_bench.results.table import Cell, Column, Table
from kd_bench.utils.errors import require

CLEAR, OPEN = "#1f4e8c", "#9aa5b1"  # an interval that leaves zero out, and one that does not
INCHES_PER_ROW, INCHES_AROUND, WIDTH = 0.27, 1.0, 7.0
_FACTS = re.compile(r"differences [0-9a-f]{64}")

Differences = dict[str, tuple[Cell, list[float]]]  # of each row: its cell, and each seed's


def differences(table: Table, column: Column) -> Differences:
    """The rows of a column that have a difference to the baseline, in the table's order."""
    under = table.under(column)
    baseline = under.get(BASELINE)
    found = {}
    for row, cell in under.items():
        if cell.delta is not None:
            seeds = sorted(cell.values.keys() & baseline.values.keys())
            found[row] = cell, [cell.values[seed] - baseline.values[seed] for seed in seeds]
    return found


def data_hash(picture: str) -> str | None:
    """What a picture was drawn from, as it says itself; pictures of the same may differ in lines.

    (The same numbers become other lines with another version of matplotlib.)
    """
    found = _FACTS.search(picture)
    return found and found.group()


def svg(table: Table) -> str:
    """A panel for each column: dots are seeds, a mark is their mean, a bar its 95 % interval.

    Raises:
        UserError: for a table in which nothing stands beside a baseline.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = {c.label: found for c in table.columns if (found := differences(table, c))}
    require(bool(shown), "no differences to draw: no method here has a baseline beside it")
    heights = [len(found) * INCHES_PER_ROW + INCHES_AROUND for found in shown.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
    for panel, (label, found) in zip(panels, shown.items(), strict=True):
        _draw(panel, found)
        panel.set_title(label, fontsize=10, loc="left")
    panels[-1].set_xlabel("difference to the baseline in points: seeds, mean, 95 % interval")
    drawn = json.dumps({label: _numbers(found) for label, found in shown.items()})
    told = f"differences {hashlib.sha256(drawn.encode()).hexdigest()}"
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": told}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Description": told})
    return file.getvalue()


def _draw(panel, found: Differences) -> None:
    panel.axvline(0, color="black", linewidth=0.8)
    for place, (cell, seeds) in enumerate(found.values()):
        mean, width = cell.delta.mean, cell.delta.half_width
        colour = CLEAR if width is not None and abs(mean) > width else OPEN
        panel.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=3, alpha=0.5)
        panel.errorbar(mean, place, xerr=width, fmt="D", color=colour, markersize=5, capsize=3)
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.margins(y=0.5 / max(1, len(found)))
    panel.grid(axis="x", linewidth=0.3)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _numbers(found: Differences) -> dict[str, list]:
    return {
        row: [cell.delta.mean, cell.delta.half_width, *seeds]
        for row, (cell, seeds) in found.items()
    }
