"""Draws a table of texts no wider than a terminal: columns that do not fit go below the others."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

UNLIMITED = 1000  # characters: the width of a file or a pipe
EDGES, GAP = 2, 3  # characters outside of all columns, and between two

Column = Sequence[str]  # its heading, and a text for each row


def side_by_side(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Pictures of the table, each with its first column and as many of the others as fit.

    Args:
        rows: the heading, then a text for each column of each row.
        width: of the terminal, in characters. Headings are wrapped between words to fit; the texts
            below them only where one column alone is too wide.
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
    """The width of a column whose heading is wrapped between words, and nothing else."""
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
