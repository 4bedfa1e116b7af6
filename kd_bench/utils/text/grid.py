"""Draws a text table no wider than a terminal: columns that do not fit go below the others."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

UNLIMITED = 1000  # characters: the width for a file or a pipe
EDGES, GAP = 2, 3  # characters outside all columns, and between two columns

Column = Sequence[str]  # the heading, then a text for each row


def side_by_side(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Parts of the table as text, each with the first column and as many of the others as fit.

    Args:
        rows: the heading, then a text for each column of each row.
        width: of the terminal, in characters. Headings are wrapped between words to fit; the texts
            below them are wrapped only if a single column is too wide.
    """
    names, *columns = zip(*rows, strict=True)
    pictures: list[str] = []
    shown: list[Column] = []
    for column in columns:
        if shown and _least_width([names, *shown, column]) > width:
            pictures.append(_picture([names, *shown], width))
            shown = []
        shown.append(column)
    return [*pictures, _picture([names, *shown], width)]


def _least_width(columns: Sequence[Column]) -> int:
    return EDGES + sum(map(_least, columns)) + GAP * (len(columns) - 1)


def _least(column: Column) -> int:
    """The minimum width of a column in which only the heading is wrapped, between words."""
    heading, *texts = column
    return max(cell_len(text) for text in (*heading.split(), *texts))


def _picture(columns: Sequence[Column], width: int) -> str:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    fits = _least_width(columns) <= width
    for number, column in enumerate(columns):
        grid.add_column(
            column[0],
            justify="right" if number else "left",
            min_width=_least(column) if fits else None,
            overflow="fold",
        )
    for row in zip(*(column[1:] for column in columns), strict=True):
        grid.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())
