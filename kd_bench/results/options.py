"""What can be chosen about a table; imports no pandas, so that `--help` is fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

METRICS = ("last", "best", "best-val")  # which epoch counts
FILTERS = ("dataset", "pair", "method", "recipe", "student")
FORMAT_NAMES = ("terminal", "markdown", "latex", "csv")


@dataclass(frozen=True)
class TableOptions:
    """A table as asked for on the command line."""

    source: str  # folder with records
    choice: dict[str, Sequence[str]] = field(default_factory=dict)  # filter -> names
    metric: str = METRICS[0]
    note: str = ""  # a sentence for the caption
    format: str | None = None  # of what is printed
    csv: Path | None = None  # file for the cells
    figure: Path | None = None  # SVG file for the differences from the baseline
    plot: Path | None = None  # SVG file for accuracy against swept values
